//! What it is worth to send a payment to a processor.

use super::Policy;

/// What is expected of a processor at some moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Share of the amount that it keeps.
    pub fee: f64,
    /// Probability that an attempt succeeds, above 0.
    pub success: f64,
    /// Seconds until it answers.
    pub latency: f64,
    /// Seconds until it has a free slot.
    pub wait: f64,
}

/// The smallest probability of success that is reckoned with, so that every utility is finite.
const LEAST_SUCCESS: f64 = 1e-3;

/// The utility in shares of the amount:
///
/// ```text
/// U = (1 - fee) - (c L + a) / theta + a - c W (1 + W / D) - p s(L)
/// ```
///
/// with c the price per second, a the price of a failed attempt, `1 / theta` the expected number of
/// attempts, L the latency, W the wait for a slot, D the wait at which the price of a second has
/// doubled, p the price of slowness, and s rising from 0 to 1 between `slow_from` and `slow_fully`.
/// Not `theta (1 - fee)`: a failed attempt that is proved costs time and nothing else, the payment
/// is still there.
pub fn utility(outlook: Outlook, policy: &Policy) -> f64 {
    let Outlook {
        fee,
        success,
        latency,
        wait,
    } = outlook;
    let attempts = 1.0 / success.clamp(LEAST_SUCCESS, 1.0);
    let (from, fully) = (
        policy.slow_from.as_secs_f64(),
        policy.slow_fully.as_secs_f64(),
    );
    let slowness = if latency >= fully {
        1.0
    } else {
        ((latency - from) / (fully - from)).max(0.0)
    };
    (1.0 - fee) + policy.price_per_failure
        - (policy.price_per_second * latency + policy.price_per_failure) * attempts
        - policy.price_per_second * wait * (1.0 + wait / policy.wait_doubles_at.as_secs_f64())
        - policy.price_of_slowness * slowness
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outlook() -> impl Strategy<Value = Outlook> {
        (0.0..1.0f64, 0.0..=1.0f64, 0.0..60.0f64, 0.0..600.0f64).prop_map(
            |(fee, success, latency, wait)| Outlook {
                fee,
                success,
                latency,
                wait,
            },
        )
    }

    proptest! {
        #[test]
        fn a_worse_outlook_is_never_worth_more(at in outlook(), by in 0.0..1.0f64) {
            let policy = Policy::default();
            let before = utility(at, &policy);
            prop_assert!(before.is_finite());
            let worse = [
                Outlook { fee: at.fee + by, ..at },
                Outlook { success: at.success * (1.0 - by), ..at },
                Outlook { latency: at.latency + by, ..at },
                Outlook { latency: at.latency + 60.0 * by, ..at },
                Outlook { wait: at.wait + by, ..at },
            ];
            for worse in worse {
                prop_assert!(utility(worse, &policy) <= before + 1e-12, "{worse:?}");
            }
        }
    }

    #[test]
    fn a_little_slower_is_not_worth_the_higher_fee() {
        let policy = Policy::default();
        let cheap = Outlook {
            fee: 0.05,
            success: 0.98,
            latency: 0.4,
            wait: 0.0,
        };
        let dear = Outlook {
            fee: 0.15,
            success: 0.98,
            latency: 0.0,
            wait: 0.0,
        };
        assert!(utility(cheap, &policy) > utility(dear, &policy));
    }
}
