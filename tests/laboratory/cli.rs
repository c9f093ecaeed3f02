//! The command as a whole.

use clap::Parser;

use crate::lab::cli::{Args, main};

fn table(line: &str) -> anyhow::Result<String> {
    let mut out = Vec::new();
    main(&Args::try_parse_from(format!("laboratory {line}").split_whitespace())?, &mut out)?;
    Ok(String::from_utf8(out)?)
}

#[test]
fn the_table_is_the_same_every_time_and_has_a_line_for_each_policy() {
    let line = "--sessions 12 --hours 0.3 --ramp 200 --orders 3 --replicas 2 --cache 300000 --wait 30";
    let first = table(line).unwrap();
    assert_eq!(first, table(line).unwrap());
    for policy in
        ["nearpool", "nearpool-learns", "round-robin", "random", "longest-match", "oracle-admission", "pooled"]
    {
        assert!(first.contains(&format!("\n| {policy} |")), "{policy} is not in {first}");
    }
    let some = table(&format!("{line} --policies random,oracle")).unwrap();
    assert_eq!(some.lines().filter(|line| line.starts_with("| ")).count(), 1 + 2, "{some}");
}

#[test]
fn the_head_tells_what_both_admit_by() {
    let line = "--sessions 2 --hours 0.1 --orders 1 --replicas 2 --policies random";
    let ours = table(&format!("{line} --edge=active=\"2m\"")).unwrap();
    assert!(
        ours.contains("nearpool: sessions told by names;") && ours.contains("active for 120 s, a wait ≤ 30 s"),
        "{ours}"
    );
    assert_eq!(ours.matches("active for 120 s").count(), 2, "the oracle's is Nearpool's: {ours}");
    let other = table(&format!("{line} --active 60 --wait 10 --edge=admission=false --identity messages")).unwrap();
    assert!(other.contains("told by messages;") && other.contains("no admission"), "{other}");
    assert!(other.contains("active for 60 s, a wait ≤ 10 s"), "{other}");
}

#[test]
fn what_cannot_be_run_is_told() {
    let check = |line: &str, wanted: &str| {
        let error = format!("{:#}", table(line).unwrap_err());
        assert!(error.contains(wanted), "{line}: {error:?} lacks {wanted:?}");
    };
    check("--trace no-such-file.csv", "cannot read the trace no-such-file.csv");
    check("--trace Cargo.toml", "in the trace Cargo.toml");
    check("--orders 0", "--orders is not between 1 and 1000");
    check("--speed 0", "--speed is 0");
    check("--hours -1", "unexpected argument");
    check("--hours=-1", "--hours is not between");
    check("--itl=nan", "--itl is not between");
    check("--check", "--check needs a trace");
    let trace = concat!(env!("CARGO_TARGET_TMPDIR"), "/laboratory-trace.csv");
    let columns = "session,agent,seq,t_ms,in_tok,out_tok,nblk,ref,lcp,think_ms,api_ms,tool_sys_tok";
    std::fs::write(trace, format!("{columns}\n1,0,0,0,200,5,3,-1,0,0,10,70\n")).unwrap();
    check(&format!("--check --trace {trace}"), "stated for 300 and 600 sessions, not 1");
    check(&format!("--check --trace {trace} --policies oracle"), "--check needs all policies");
    check(&format!("--check --trace {trace} --orders 4"), "--check needs 5 orders");
    check("--sessions 1 --policies nearpool --edge=active=1", "must be a duration with its unit");
    check("--policies best", "invalid value 'best'");
}
