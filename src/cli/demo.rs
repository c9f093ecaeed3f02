//! `nearpool demo`.
use std::process::ExitCode;
#[derive(clap::Args, Debug)]
pub(super) struct DemoArgs {
    /// x
    #[arg(long)]
    seconds: Option<u64>,
}
pub(super) fn run(_args: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not yet")
}
