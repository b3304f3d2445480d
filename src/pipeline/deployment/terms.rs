//! What all instances of a deployment have to agree on.
//!
//! A name of a processor is evidence: it stands beside each payment that may have been charged.
//! Where two instances mean different processors by one name, one asks the wrong processor, and its
//! 404 frees a payment that was charged. So the terms are in the database, and an instance with
//! others accepts and charges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ProcessorSettings, Settings};
use crate::domain::lease::LeasePolicy;

/// What an instance is configured with, as far as the others have to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberTerms {
    /// The processors by their names.
    pub processors: BTreeMap<String, ProcessorTerms>,
    /// `logged` or `unlogged`.
    pub queue_durability: String,
    /// How long a processor has to answer, in milliseconds.
    pub processor_timeout_ms: u64,
    /// How long after an unanswered call it may still charge, in milliseconds.
    pub late_charge_ms: u64,
}

/// A processor in the terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorTerms {
    /// Its address, normalised.
    pub url: String,
    /// Its fee as a decimal number without trailing zeros.
    pub fee: String,
}

impl ProcessorTerms {
    fn of(settings: &ProcessorSettings) -> Self {
        Self {
            url: settings.address(),
            fee: settings.fee.normalize().to_string(),
        }
    }
}

impl MemberTerms {
    /// The terms in the settings of an instance.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let processors = settings.processors.processors.0.iter();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            processors: processors
                .map(|each| (each.name.clone(), ProcessorTerms::of(each)))
                .collect(),
            queue_durability: settings.database.queue_durability.as_str().to_owned(),
            processor_timeout_ms: millis(settings.processors.processor_timeout),
            late_charge_ms: millis(settings.late_charge),
        }
    }

    /// How long a claim and the doubt that it leaves last.
    #[must_use]
    pub fn doubt(&self) -> Duration {
        let millis = Duration::from_millis;
        let timeout = millis(self.processor_timeout_ms);
        LeasePolicy::new(timeout, millis(self.late_charge_ms)).doubt()
    }

    /// What differs from the terms of the deployment, a phrase each; none where they agree.
    #[must_use]
    pub fn differences(&self, deployment: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, ours) in &self.processors {
            let Some(theirs) = deployment.processors.get(name) else {
                let mut others = deployment.processors.iter();
                differences.push(match others.find(|(_, theirs)| theirs.url == ours.url) {
                    Some((other, _)) => format!(
                        "{name} is at {} here, which is {other} in the deployment",
                        ours.url
                    ),
                    None => format!("{name} is not a processor of the deployment"),
                });
                continue;
            };
            if ours.url != theirs.url {
                differences.push(format!(
                    "{name} is at {} here, at {} in the deployment",
                    ours.url, theirs.url
                ));
            }
            if ours.fee != theirs.fee {
                differences.push(format!(
                    "the fee of {name} is {} here, {} in the deployment",
                    ours.fee, theirs.fee
                ));
            }
        }
        for name in deployment.processors.keys() {
            if !self.processors.contains_key(name) {
                differences.push(format!("{name} of the deployment is missing here"));
            }
        }
        for (variable, ours, theirs) in [
            (
                "QUEUE_DURABILITY",
                self.queue_durability.clone(),
                deployment.queue_durability.clone(),
            ),
            (
                "PROCESSOR_TIMEOUT_MS",
                self.processor_timeout_ms.to_string(),
                deployment.processor_timeout_ms.to_string(),
            ),
            (
                "LATE_CHARGE_MS",
                self.late_charge_ms.to_string(),
                deployment.late_charge_ms.to_string(),
            ),
        ] {
            if ours != theirs {
                differences.push(format!(
                    "{variable} is {ours} here, {theirs} in the deployment"
                ));
            }
        }
        differences
    }

    /// The names by which these terms mean an address that the deployment's do not.
    #[must_use]
    pub(crate) fn moved_from(&self, deployment: &Self) -> Vec<String> {
        let moved = self.processors.iter().filter(|(name, ours)| {
            let theirs = deployment.processors.get(*name);
            theirs.is_none_or(|theirs| ours.url != theirs.url)
        });
        moved.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(processors: &[(&str, &str, &str)]) -> MemberTerms {
        let processors = processors.iter().map(|(name, url, fee)| {
            let settings = ProcessorSettings {
                name: (*name).to_owned(),
                fee: fee.parse().expect("a fee"),
                url: url.parse().expect("a URL"),
            };
            ((*name).to_owned(), ProcessorTerms::of(&settings))
        });
        MemberTerms {
            processors: processors.collect(),
            queue_durability: "logged".to_owned(),
            processor_timeout_ms: 15_000,
            late_charge_ms: 60_000,
        }
    }

    #[test]
    fn urls_and_fees_that_are_written_differently_agree() {
        let one = terms(&[("default", "http://Processor:80/", "0.05")]);
        let other = terms(&[("default", "HTTP://processor", "0.0500")]);
        assert_eq!(one.differences(&other), [""; 0]);
        assert_eq!(one, other);
    }

    #[test]
    fn every_difference_is_named() {
        let deployment = terms(&[
            ("default", "http://a", "0.05"),
            ("fallback", "http://b", "0.15"),
        ]);
        let swapped = terms(&[
            ("default", "http://b", "0.05"),
            ("fallback", "http://a", "0.15"),
        ]);
        assert_eq!(
            swapped.differences(&deployment),
            [
                "default is at http://b here, at http://a in the deployment",
                "fallback is at http://a here, at http://b in the deployment",
            ]
        );
        assert_eq!(swapped.moved_from(&deployment), ["default", "fallback"]);
        let other = MemberTerms {
            queue_durability: "unlogged".to_owned(),
            late_charge_ms: 1,
            ..terms(&[
                ("alpha", "http://b", "0.15"),
                ("default", "http://a", "0.1"),
            ])
        };
        assert_eq!(
            other.differences(&deployment),
            [
                "alpha is at http://b here, which is fallback in the deployment",
                "the fee of default is 0.1 here, 0.05 in the deployment",
                "fallback of the deployment is missing here",
                "QUEUE_DURABILITY is unlogged here, logged in the deployment",
                "LATE_CHARGE_MS is 1 here, 60000 in the deployment",
            ]
        );
        assert_eq!(other.moved_from(&deployment), ["alpha"]);
    }
}
