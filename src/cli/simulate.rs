//! `nearpool simulate`: one simulated replica.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use nearpool::sim::preset::Preset;
use nearpool::sim::server::{ServerParams, spawn};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args, Debug)]
pub(super) struct SimulateArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The served model's name.
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The replica's name, sent as `x-sim-replica`.
    #[arg(long, value_name = "NAME", default_value = "sim")]
    name: String,
    /// Its speed: guide-8b, guide-70b (published for H100), measured (long agent prompts, as they really show).
    #[arg(long, value_name = "PRESET", default_value = "measured")]
    preset: Preset,
    /// So many times faster than the preset.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    speed: f64,
    /// Size of its KV cache in tokens; the default is the preset's.
    #[arg(long, value_name = "TOKENS")]
    cache_tokens: Option<u64>,
    /// Longest context in tokens; none by default.
    #[arg(long, value_name = "TOKENS")]
    context_tokens: Option<u64>,
}

pub(super) fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.speed.is_finite() && args.speed > 0.0, "--speed must be more than 0");
    let mut engine = args.preset.params().faster(args.speed);
    if let Some(tokens) = args.cache_tokens {
        let block_tokens = engine.block_tokens;
        anyhow::ensure!(
            tokens >= u64::from(block_tokens),
            "--cache-tokens must be at least one block ({block_tokens})"
        );
        engine = engine.with_cache(tokens, block_tokens);
    }
    let params = ServerParams {
        listen: args.listen,
        engine,
        context_tokens: args.context_tokens,
        ..ServerParams::new(&args.name, &args.model)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let replica = spawn(params).await.with_context(|| format!("cannot listen at {}", args.listen))?;
        println!("replica {} serves {} at {}", replica.name(), replica.model(), replica.url());
        println!("faults: POST {}/sim/fault, for example {{\"fault\":\"status\",\"status\":503}}; {{\"fault\":\"none\"}} ends it", replica.url());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        replica.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
