//! What is counted and shown.

use crate::lab::report::{Figures, Tally};

#[test]
fn figures_are_of_what_was_counted() {
    let mut tally = Tally::default();
    tally.computed = vec![100, 300];
    tally.sent(0);
    tally.sent(2_000_000);
    tally.stood = vec![500_000, 1_500_000];
    tally.prefilled(100, 25);
    tally.first_token(1_000_000);
    tally.prefilled(300, 275);
    tally.first_token(3_000_000);
    let figures = tally.figures();
    assert_eq!((figures.share, figures.ttft_mean, figures.imbalance), (0.75, 2.0, 1.5));
    assert_eq!((figures.ttft, figures.waited, figures.wait), ([3.0; 3], 1.0, [2.0; 2]));
    assert_eq!(figures.stood, 1.5);
}

#[test]
fn the_median_run_is_taken_figure_by_figure() {
    let run = |share, answered| Figures { share, answered, ..Tally::default().figures() };
    let median = Figures::median(&[run(0.1, 30.0), run(0.3, 10.0), run(0.2, 20.0)]);
    assert_eq!((median.share, median.answered), (0.2, 20.0));
    assert_eq!(Figures::median(&[run(0.0, 1.0), run(1.0, 2.0)]).share, 0.5);
}
