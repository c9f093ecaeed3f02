//! What a call costs in a pool: a share of its replicas' time, or its tokens.

use crate::domain::topology::{Pool, TokenPrice};

/// How a pool's calls are paid for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Price {
    /// USD for a second of one replica, which the calls in flight there share.
    Time(f64),
    /// By what the answer says that it used.
    Tokens(TokenPrice),
}

impl Price {
    /// The price in this pool; `None` where none is stated. A price per token goes first: it is what a call is billed,
    /// and what the replica costs by the hour is then for comparing pools.
    pub fn of(pool: &Pool) -> Option<Price> {
        let time = || pool.cost_per_hour.map(|per_hour| Price::Time(per_hour / 3_600.0));
        pool.price_per_million_tokens.map(Price::Tokens).or_else(time)
    }
}

/// USD for an answer's tokens; those of the prompt include the cached ones.
pub fn of_tokens(price: TokenPrice, prompt: u64, cached: u64, completion: u64) -> f64 {
    let cached = cached.min(prompt);
    let per_million =
        (prompt - cached) as f64 * price.prompt + cached as f64 * price.cached + completion as f64 * price.completion;
    per_million / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::Fleet;

    const TOKENS: TokenPrice = TokenPrice { prompt: 0.2, cached: 0.05, completion: 0.6 };

    #[test]
    fn a_price_per_token_goes_before_one_by_the_hour() {
        let mut pool =
            Fleet::new().region("here", 0.0, 0.0).model("m", &[]).pool("p", "here", "m", 1).build().pools.remove(0);
        assert_eq!(Price::of(&pool), None);
        pool.cost_per_hour = Some(3.6);
        assert_eq!(Price::of(&pool), Some(Price::Time(0.001)));
        pool.price_per_million_tokens = Some(TOKENS);
        assert_eq!(Price::of(&pool), Some(Price::Tokens(TOKENS)));
        pool.cost_per_hour = None;
        assert_eq!(Price::of(&pool), Some(Price::Tokens(TOKENS)));
    }

    #[test]
    fn cached_tokens_have_a_price_of_their_own() {
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-15, "{found}, not {expected}");
        close(of_tokens(TOKENS, 1_000_000, 0, 0), 0.2);
        close(of_tokens(TOKENS, 1_000_000, 400_000, 1_000_000), 0.6 * 0.2 + 0.4 * 0.05 + 0.6);
        close(of_tokens(TOKENS, 10, 1_000, 0), 10.0 * 0.05 / 1e6);
        close(of_tokens(TOKENS, 0, 0, 0), 0.0);
    }
}
