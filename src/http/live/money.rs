//! What was settled, what it cost, and what it would have cost elsewhere.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};

use crate::store::fee::FeesOfPeriod;

/// All that was ever settled, each payment at the fee of its time. Amounts are rounded to the cent,
/// each by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Money {
    /// Number of payments.
    pub payments: i64,
    /// Their sum.
    #[serde(serialize_with = "text")]
    pub gross: Decimal,
    /// What the processors keep of it, as far as their fees are known.
    #[serde(serialize_with = "text")]
    pub fees: Decimal,
    /// What is left of payments whose fee is known.
    #[serde(serialize_with = "text")]
    pub net: Decimal,
    /// Payments whose fee nobody knows.
    pub without_fee: i64,
    /// The parts, the configured processors first, in order of preference.
    pub processors: Vec<Part>,
    /// What all of it would have cost at one processor, if that had always taken payments.
    pub alternatives: Vec<Alternative>,
}

/// What one processor settled.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// Its name.
    pub processor: String,
    /// Number of payments.
    pub payments: i64,
    /// Their sum.
    #[serde(serialize_with = "text")]
    pub gross: Decimal,
    /// What it keeps of payments whose fee is known.
    #[serde(serialize_with = "text")]
    pub fees: Decimal,
}

/// Everything at one processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alternative {
    /// Its name.
    pub processor: String,
    /// What it would have kept.
    #[serde(serialize_with = "text")]
    pub fees: Decimal,
    /// By how much that is more than what was paid. Negative: it is less.
    #[serde(serialize_with = "text")]
    pub saved: Decimal,
}

impl Money {
    /// Of what was kept, told with the shares of the configured processors, which have these names.
    #[must_use]
    pub(super) fn of(kept: &[FeesOfPeriod], names: &[String]) -> Self {
        let mut order: Vec<&String> = names.iter().collect();
        for each in kept {
            if !order.contains(&&each.processor) {
                order.push(&each.processor);
            }
        }
        let parts = order.into_iter().map(|name| {
            let own = || kept.iter().filter(|each| each.processor == *name);
            Part {
                processor: name.clone(),
                payments: own().map(|each| each.payments).sum(),
                gross: own().map(|each| each.amount).sum(),
                fees: cents(own().filter_map(|each| each.fee).sum()),
            }
        });
        let parts: Vec<Part> = parts.collect();
        let fees: Decimal = parts.iter().map(|part| part.fees).sum();
        let gross: Decimal = parts.iter().map(|part| part.gross).sum();
        // Where a fee is not known nothing can be compared.
        let known = || kept.iter().filter(|each| each.fee.is_some());
        let alternatives = names.iter().enumerate().map(|(index, name)| {
            // A processor that came later is taken to have had its first fee before.
            let first = known().find_map(|each| each.shares.get(index).copied().flatten());
            let share = |each: &FeesOfPeriod| each.shares.get(index).copied().flatten().or(first);
            let all = known().filter_map(|each| Some(each.amount * share(each)?));
            let all = cents(all.sum());
            Alternative {
                processor: name.clone(),
                fees: all,
                saved: all - fees,
            }
        });
        let unknown = kept.iter().filter(|each| each.fee.is_none());
        Self {
            payments: parts.iter().map(|part| part.payments).sum(),
            gross,
            fees,
            net: known().map(|each| each.amount).sum::<Decimal>() - fees,
            without_fee: unknown.map(|each| each.payments).sum(),
            alternatives: alternatives.collect(),
            processors: parts,
        }
    }
}

fn cents(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(2, rust_decimal::RoundingStrategy::MidpointAwayFromZero)
}

/// As text, because a browser reads numbers as floats.
fn text<S: Serializer>(amount: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["default", "fallback"].map(str::to_owned).to_vec()
    }

    /// So many payments of so many cents, at so many hundredths; what default and fallback keep at
    /// that time.
    fn kept(
        name: &str,
        payments: i64,
        amount: i64,
        share: Option<i64>,
        shares: [i64; 2],
    ) -> FeesOfPeriod {
        let amount = Decimal::new(amount, 2);
        FeesOfPeriod {
            processor: name.to_owned(),
            payments,
            amount,
            fee: share.map(|share| amount * Decimal::new(share, 2)),
            shares: shares.map(|share| Some(Decimal::new(share, 2))).to_vec(),
        }
    }

    #[test]
    fn fees_are_compared_with_everything_at_one_processor() {
        let kept = [
            kept("default", 8, 80_000, Some(5), [5, 15]),
            kept("fallback", 2, 20_000, Some(15), [5, 15]),
        ];
        let money = Money::of(&kept, &names());
        assert_eq!(
            (money.payments, money.gross, money.fees, money.net),
            (
                10,
                Decimal::new(100_000, 2),
                Decimal::new(7_000, 2),
                Decimal::new(93_000, 2)
            )
        );
        let saved: Vec<Decimal> = money.alternatives.iter().map(|other| other.saved).collect();
        assert_eq!(saved, [Decimal::new(-2_000, 2), Decimal::new(8_000, 2)]);
    }

    #[test]
    fn each_payment_is_compared_at_the_fees_of_its_time() {
        let kept = [
            kept("default", 1, 10_000, Some(5), [5, 15]),
            kept("default", 1, 10_000, Some(7), [7, 10]),
            kept("gone", 1, 10_000, Some(30), [7, 10]),
        ];
        let money = Money::of(&kept, &names());
        assert_eq!(money.fees, Decimal::new(4_200, 2));
        let fees: Vec<Decimal> = money.alternatives.iter().map(|other| other.fees).collect();
        assert_eq!(fees, [Decimal::new(1_900, 2), Decimal::new(3_500, 2)]);
    }

    #[test]
    fn a_payment_whose_fee_is_not_known_is_counted_and_not_compared() {
        let kept = [
            kept("default", 1, 10_000, Some(5), [5, 15]),
            kept("gone", 1, 50_000, None, [5, 15]),
        ];
        let money = Money::of(&kept, &names());
        assert_eq!(
            (money.gross, money.fees, money.net, money.without_fee),
            (
                Decimal::new(60_000, 2),
                Decimal::new(500, 2),
                Decimal::new(9_500, 2),
                1
            )
        );
        assert_eq!(money.alternatives[1].fees, Decimal::new(1_500, 2));
    }

    #[test]
    fn a_trillion_payments_of_the_largest_amount_are_added_up_to_the_cent() {
        let amount = Decimal::new(99_999_999_999_999, 2) * Decimal::from(1_000_000_000_000_i64);
        let share: Decimal = "0.0512345678901234567890123456".parse().expect("a fee");
        let part = |name: &str, share: Option<Decimal>| FeesOfPeriod {
            processor: name.to_owned(),
            payments: 1_000_000_000_000,
            amount,
            fee: share.map(|share| amount * share),
            shares: vec![share],
        };
        let kept = [part("default", Some(share)), part("fallback", None)];
        let money = Money::of(&kept, &names()[..1]);
        assert_eq!(money.gross.to_string(), "1999999999999980000000000.00");
        assert_eq!(money.fees.to_string(), "51234567890122944443333.44");
    }

    #[test]
    fn amounts_go_out_as_text_to_the_last_cent() {
        let kept = [kept("default", 1, 9_007_199_254_740_993, Some(5), [5, 15])];
        let json = serde_json::to_value(Money::of(&kept, &names())).expect("JSON");
        assert_eq!(json["gross"], "90071992547409.93");
    }
}
