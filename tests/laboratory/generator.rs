//! Generated sessions beside recorded ones.

use crate::lab::trace::{SessionRow, generate};

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * part) as usize]
}

#[test]
fn generated_sessions_have_the_statistics_of_recorded_ones() {
    let sessions = generate(2_000, 1);
    let rows: Vec<&SessionRow> = sessions.iter().flatten().collect();
    let check = |what: &str, found: f64, wanted: f64, within: f64| {
        assert!((found / wanted - 1.0).abs() <= within, "{what}: {found}, not {wanted}");
    };
    let of = |figure: fn(&SessionRow) -> f64| rows.iter().map(|row| figure(row)).collect::<Vec<_>>();
    check("calls", quantile(sessions.iter().map(|rows| rows.len() as f64).collect(), 0.5), 46.0, 0.05);
    check("input", quantile(of(|row| f64::from(row.shape.input)), 0.5), 104_000.0, 0.05);
    check("input, p99", quantile(of(|row| f64::from(row.shape.input)), 0.99), 499_000.0, 0.1);
    check("output", quantile(of(|row| f64::from(row.shape.output)), 0.5), 216.0, 0.05);
    let gaps = |part| {
        let later = rows.iter().filter(|row| row.shape.reference.is_some());
        quantile(later.map(|row| (row.think_ms + row.answer_ms) as f64 / 1_000.0).collect(), part)
    };
    check("gap", gaps(0.5), 17.0, 0.05);
    check("gap, p90", gaps(0.9), 129.0, 0.05);
    let blocks: usize = rows.iter().map(|row| row.shape.blocks).sum();
    let same: usize = rows.iter().map(|row| row.shape.same).sum();
    check("repeated", same as f64 / blocks as f64, 0.96, 0.01);
    let sub_calls = rows.iter().filter(|row| row.agent > 0).count();
    check("sub-agents' calls", sub_calls as f64 / rows.len() as f64, 0.022, 0.2);
}

#[test]
fn equal_seeds_give_equal_sessions() {
    assert_eq!(generate(5, 7), generate(5, 7));
    assert_ne!(generate(5, 7), generate(5, 8));
}
