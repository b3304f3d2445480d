//! What was settled, what it cost, and what it would have cost elsewhere.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};

use crate::route::Terms;
use crate::summary::Summary;

/// All that was ever settled, at the fees of today. Amounts are rounded to the cent, each by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Money {
    /// Number of payments.
    pub payments: i64,
    /// Their sum.
    #[serde(serialize_with = "text")]
    pub gross: Decimal,
    /// What the processors keep of it.
    #[serde(serialize_with = "text")]
    pub fees: Decimal,
    /// What is left.
    #[serde(serialize_with = "text")]
    pub net: Decimal,
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
    /// What it keeps; 0 for one that is not configured any more, whose fee nobody knows.
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
    /// Of that summary, at those terms.
    #[must_use]
    pub(super) fn of(summary: &Summary, terms: &[Terms]) -> Self {
        let fee = |name: &str| {
            let terms = terms.iter().find(|terms| terms.name == name);
            terms.map(|terms| terms.fee)
        };
        let parts = summary.0.iter().map(|(name, totals)| Part {
            processor: name.clone(),
            payments: totals.total_requests,
            gross: totals.total_amount,
            fees: cents(totals.total_amount * fee(name).unwrap_or_default()),
        });
        let parts: Vec<Part> = parts.collect();
        let fees: Decimal = parts.iter().map(|part| part.fees).sum();
        let gross: Decimal = parts.iter().map(|part| part.gross).sum();
        // Where a fee is not known nothing can be compared.
        let comparable: Decimal = parts
            .iter()
            .filter(|part| fee(&part.processor).is_some())
            .map(|part| part.gross)
            .sum();
        let alternatives = terms.iter().map(|terms| {
            let all = cents(comparable * terms.fee);
            Alternative {
                processor: terms.name.clone(),
                fees: all,
                saved: all - fees,
            }
        });
        Self {
            payments: parts.iter().map(|part| part.payments).sum(),
            gross,
            fees,
            net: gross - fees,
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
    use crate::summary::Totals;

    fn terms() -> Vec<Terms> {
        let terms = [("default", 5), ("fallback", 15)];
        let terms = terms.map(|(name, percent)| Terms {
            name: name.to_owned(),
            fee: Decimal::new(percent, 2),
        });
        terms.to_vec()
    }

    fn totals(name: &str, total_requests: i64, cents: i64) -> (String, Totals) {
        let total_amount = Decimal::new(cents, 2);
        let totals = Totals {
            total_requests,
            total_amount,
        };
        (name.to_owned(), totals)
    }

    #[test]
    fn fees_are_compared_with_everything_at_one_processor() {
        let summary = Summary(vec![
            totals("default", 8, 80_000),
            totals("fallback", 2, 20_000),
        ]);
        let money = Money::of(&summary, &terms());
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
    fn a_processor_whose_fee_is_not_known_is_counted_and_not_compared() {
        let summary = Summary(vec![
            totals("default", 1, 10_000),
            totals("gone", 1, 50_000),
        ]);
        let money = Money::of(&summary, &terms());
        assert_eq!(
            (money.gross, money.fees),
            (Decimal::new(60_000, 2), Decimal::new(500, 2))
        );
        assert_eq!(money.alternatives[1].fees, Decimal::new(1_500, 2));
    }

    #[test]
    fn a_trillion_payments_of_the_largest_amount_are_added_up_to_the_cent() {
        let total_amount =
            Decimal::new(99_999_999_999_999, 2) * Decimal::from(1_000_000_000_000_i64);
        let part = |name: &str| {
            let totals = Totals {
                total_requests: 1_000_000_000_000,
                total_amount,
            };
            (name.to_owned(), totals)
        };
        let terms = vec![Terms {
            name: "default".to_owned(),
            fee: "0.0512345678901234567890123456".parse().expect("a fee"),
        }];
        let money = Money::of(&Summary(vec![part("default"), part("fallback")]), &terms);
        assert_eq!(money.gross.to_string(), "1999999999999980000000000.00");
        assert_eq!(money.fees.to_string(), "51234567890122944443333.44");
    }

    #[test]
    fn amounts_go_out_as_text_to_the_last_cent() {
        let summary = Summary(vec![totals("default", 1, 9_007_199_254_740_993)]);
        let json = serde_json::to_value(Money::of(&summary, &terms())).expect("JSON");
        assert_eq!(json["gross"], "90071992547409.93");
    }
}
