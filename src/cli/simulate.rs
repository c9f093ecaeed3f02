//! `nearpool simulate`: one simulated replica.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use nearpool::sim::preset::Preset;
use nearpool::sim::server::{ServerParams, spawn};
use tokio::signal::unix::{SignalKind, signal};

/// What `POST /sim/fault` takes: the names of [`Fault`](nearpool::sim::server::Fault) with their fields.
const FAULTS: &str = "\
Faults, as POST /sim/fault takes them:
  {\"fault\":\"refuse\"}                             nobody listens any more
  {\"fault\":\"status\",\"status\":503}                optionally \"retry_after_s\":2
  {\"fault\":\"stall\"}                              never answered; also stall_after_headers
  {\"fault\":\"close_before_headers\"}               also reset_before_headers
  {\"fault\":\"cut_mid_stream\",\"after_events\":5}    also stall_mid_stream
  {\"fault\":\"truncated_body\"}
  {\"fault\":\"slow_prefill\",\"ms\":500}
  {\"fault\":\"loading\"}
  {\"fault\":\"none\"}                               heals it
Each with \"remaining\":3 for so many requests, \"for_ms\":2000 for so long, and \"scope\":\"all\" for
health checks too.";

#[derive(clap::Args, Debug)]
#[command(after_help = FAULTS)]
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

#[cfg(test)]
mod tests {
    use nearpool::sim::server::FaultPlan;

    use super::*;

    #[test]
    fn the_faults_that_the_help_shows_can_be_ordered() {
        let shown =
            FAULTS.lines().filter_map(|line| line.trim_start().split_once('}')).map(|(order, _)| format!("{order}}}"));
        let orders: Vec<_> = shown.filter(|order| !order.contains("none")).collect();
        assert_eq!(orders.len(), 8);
        for order in orders {
            serde_json::from_str::<FaultPlan>(&order).unwrap_or_else(|error| panic!("{order}: {error}"));
        }
    }
}
