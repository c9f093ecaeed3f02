//! `nearpool demo`: the whole system on this machine.
//!
//! Simulated replicas in four regions, one edge in front of them as `nearpool run` would put it together, and agents on
//! six continents, all talking real HTTP over loopback. The agents are as they come: they name no session. Replicas and a
//! region die and come back; then the same agents do without the edge, each call to the next replica in turn of its model
//! in the nearest region, which shows what the edge is worth. What the agents saw is added up at the end.

mod config_file;
mod rehearsal;
mod scrape;
pub(super) mod screen;
mod script;
mod show;
mod stage;
mod table;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use self::rehearsal::Trouble;
use self::screen::Screen;
use self::script::{Routing, Until};
use self::show::{Ended, Show, Shown, Signals};
use self::stage::Stage;

/// Failed health checks are what the demo is about, and the age of the GeoIP database is not; `RUST_LOG` brings them back.
const LOG: &str = "error,nearpool=warn,nearpool::control::probe=error,nearpool::control::watch=error";

#[derive(clap::Args, Debug)]
pub(super) struct DemoArgs {
    /// Show everything in so many seconds (10 to 3600) and end; without it the show takes 75 s, and the demo then goes
    /// on serving until Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(script::SECONDS_MIN..=script::SECONDS_MAX))]
    seconds: Option<u64>,
    /// Instead of the show: healthy traffic, then this trouble, then healthy traffic again, to try your alerts; may be given
    /// several times. Each part lasts until Enter, or as long as the others when --seconds says how long all last.
    #[arg(long, value_name = "KIND", value_enum)]
    trouble: Vec<Trouble>,
    /// What the agents say and how long they pause follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    super::start_log(LOG);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(demo(args));
    // Agents may still be in mid-call; nobody waits for them.
    runtime.shutdown_background();
    done
}

async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::watch()?;
    let mut screen = Screen::new();
    let stage = tokio::select! {
        stage = Stage::set(args.seed) => stage?,
        () = signals.told() => return Ok(ExitCode::SUCCESS),
    };
    screen.print(&opening(&stage, screen.paint()));
    if !args.trouble.is_empty() {
        let rehearsed = rehearse(args, &stage, &mut screen, &mut signals).await;
        stage.strike().await;
        return rehearsed.map(|()| ExitCode::SUCCESS);
    }
    let played = play(args, &stage, &mut screen, &mut signals).await;
    stage.strike().await;
    let through_edge = played?.into_iter().filter(|shown| shown.routing == Routing::Nearpool);
    let errors: u64 = through_edge.map(|shown| shown.tally.errors).sum();
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Healthy traffic and trouble in turn. Errors are what is rehearsed, so they are no failure.
async fn rehearse(args: &DemoArgs, stage: &Stage, screen: &mut Screen, signals: &mut Signals) -> anyhow::Result<()> {
    let whole = args.seconds.map(Duration::from_secs);
    let mut show = Show::new(stage, screen, signals, args.seed);
    show.whole = whole;
    if whole.is_none() {
        show.enters = Some(rehearsal::enters());
    }
    for (trouble, phase) in rehearsal::parts(&args.trouble, whole) {
        if let Some(trouble) = trouble {
            trouble.begin(&stage.world).await?;
        }
        show.tell(trouble.map_or("healthy: nothing should fire", Trouble::title));
        if phase.until == Until::Enter {
            show.screen.print("          Enter goes on, Ctrl-C ends.");
        }
        let shown = show.play(&phase).await?;
        rehearsal::end(&stage.world).await?;
        show.screen.print(&format!("          {}", rehearsal::seen(&shown.tally)));
        if shown.ended == Ended::Told {
            show.screen.print("Interrupted.");
            return Ok(());
        }
    }
    show.tell("the rehearsal has ended");
    Ok(())
}

/// The script, the table, and what comes after it.
async fn play(
    args: &DemoArgs,
    stage: &Stage,
    screen: &mut Screen,
    signals: &mut Signals,
) -> anyhow::Result<Vec<Shown>> {
    let whole = Duration::from_secs(args.seconds.unwrap_or(script::SECONDS_DEFAULT));
    let mut show = Show::new(stage, screen, signals, args.seed);
    show.whole = Some(whole);
    let mut shown = Vec::new();
    for (phase, title) in script::phases(whole).iter().zip([
        "phase 1, Nearpool: unmodified agents, no session named, and failures",
        "phase 2, round robin: the same agents without an edge, and no failures",
    ]) {
        show.tell(title);
        shown.push(show.play(phase).await?);
        if shown.last().is_some_and(|shown| shown.ended == Ended::Told) {
            break;
        }
    }
    let paint = show.screen.paint();
    let told = shown.iter().any(|shown| shown.ended == Ended::Told);
    if told {
        show.screen.print("\nInterrupted: this is what there was until then.");
    }
    show.screen.print(&table::table(&shown, &stage.world, paint));
    show.screen.print(&format!("\n{}", table::verdict(&shown, paint)));
    if args.seconds.is_none() && !told {
        show.screen.print("\nThe demo goes on serving, with light traffic. Ctrl-C ends it.");
        show.whole = None;
        let after = show.play(&script::afterwards()).await?;
        show.screen.print(&format!("\nAfter the show: {}", table::verdict(std::slice::from_ref(&after), paint)));
        shown.push(after);
    }
    Ok(shown)
}

/// What the demo is, and where to look and try meanwhile.
fn opening(stage: &Stage, paint: screen::Paint) -> String {
    let (agents, admin, config) = (stage.agents, stage.admin, stage.config_path().display());
    let title = format!(
        "Nearpool demo: one edge, {} regions, {} simulated replicas, HTTP on loopback",
        stage.world.regions().len(),
        stage.world.replicas().count()
    );
    // As it was started, so that it can be started again.
    let nearpool = std::env::args().next().unwrap_or_else(|| "nearpool".to_owned());
    format!(
        "{}

  {}
  agents    http://{agents}/v1
  metrics   http://{admin}/metrics
  config    {config}

  A call of your own, as from Tokyo; x-nearpool-* headers say where it went:
    curl -iN http://{agents}/v1/chat/completions \\
      -H 'content-type: application/json' -H 'x-forwarded-for: 13.112.1.1' \\
      -H 'x-session-id: mine' -H 'x-agent-step: planner' \\
      -d '{{\"model\":\"auto\",\"stream\":true,
           \"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'
  And why there:
    {nearpool} explain \\
      --config {config} \\
      --ip 13.112.1.1 --session mine --model auto --step planner
",
        paint.bold(&title),
        paint.bold(&format!("watch it  http://{admin}/"))
    )
}
