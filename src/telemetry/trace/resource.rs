//! What spans say of the program that they come from, with the variables that OpenTelemetry has for
//! that.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use percent_encoding::percent_decode_str;

const SERVICE_NAME: &str = "service.name";

/// This program, with what the variables `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` add, as
/// they are given. The library reads them, too, but decodes nothing and keeps what is left of a
/// broken value.
pub(super) fn resource(service_name: Option<&str>, attributes: Option<&str>) -> Resource {
    let mut attributes = match read_attributes(attributes.unwrap_or_default()) {
        Ok(attributes) => attributes,
        Err(error) => {
            tracing::warn!(error, "OTEL_RESOURCE_ATTRIBUTES is left out, all of it");
            Vec::new()
        }
    };
    if let Some(name) = service_name.filter(|name| !name.is_empty()) {
        attributes.retain(|(key, _)| key != SERVICE_NAME);
        attributes.push((SERVICE_NAME.to_owned(), name.to_owned()));
    }
    let own = [
        KeyValue::new(SERVICE_NAME, env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let is_given = |own: &KeyValue| {
        own.key.as_str() == SERVICE_NAME && attributes.iter().any(|(key, _)| key == SERVICE_NAME)
    };
    let own: Vec<KeyValue> = own.into_iter().filter(|own| !is_given(own)).collect();
    let attributes = attributes.into_iter();
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)))
        .with_attributes(own)
        .build()
}

/// Reads `key=value,key=value`, both percent-encoded
/// (<https://opentelemetry.io/docs/specs/otel/resource/sdk/#specifying-resource-information-via-an-environment-variable>).
///
/// # Errors
/// An entry is not of that form; then nothing of it counts.
fn read_attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let entries = text.split(',').map(str::trim).enumerate();
    let entries = entries.filter(|(_, entry)| !entry.is_empty());
    entries
        .map(|(at, entry)| {
            let number = at + 1;
            let (key, value) = entry
                .split_once('=')
                .ok_or_else(|| format!("entry {number} has no ="))?;
            let key = decode(key.trim())
                .filter(|key| !key.is_empty())
                .ok_or_else(|| format!("the key of entry {number} cannot be read"))?;
            let value = decode(value.trim())
                .ok_or_else(|| format!("the value of {key} is not percent-encoded UTF-8"))?;
            Ok((key, value))
        })
        .collect()
}

/// None where a percent sign does not stand before two hexadecimal digits, or what comes out is not
/// UTF-8.
fn decode(text: &str) -> Option<String> {
    let is_code = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    text.split('%')
        .skip(1)
        .all(is_code)
        .then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    /// The value of an attribute.
    fn told(service_name: Option<&str>, attributes: &str, key: &'static str) -> Option<String> {
        let resource = resource(service_name, Some(attributes));
        let value = resource.get(&Key::new(key));
        value.map(|value| value.to_string())
    }

    #[test]
    fn resource_attributes_are_read_as_opentelemetry_says() {
        for (text, key, expected) in [
            ("", "a", None),
            ("a=b", "a", Some("b")),
            (" a = b , c=d", "c", Some("d")),
            ("a=b,", "a", Some("b")),
            ("a=", "a", Some("")),
            ("a=b%2Cc%3Dd%20e", "a", Some("b,c=d e")),
            ("a=Z%C3%BCrich", "a", Some("Zürich")),
            ("a=100%25", "a", Some("100%")),
            ("a%2Eb=c", "a.b", Some("c")),
            ("a=b+c", "a", Some("b+c")),
            ("a=SGk=", "a", Some("SGk=")),
            // An error anywhere leaves nothing.
            ("a=b,c", "a", None),
            ("a=b,=c", "a", None),
            ("a=b,c=100%", "a", None),
            ("a=b,c=%zz", "a", None),
            ("a=b,c=%FF", "a", None),
        ] {
            assert_eq!(told(None, text, key).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_name_of_the_service_is_the_most_special_that_is_given() {
        let own = env!("CARGO_PKG_NAME");
        for (name, attributes, expected) in [
            (None, "", own),
            (Some(""), "a=b", own),
            (None, "service.name=theirs", "theirs"),
            (Some(""), "service.name=theirs", "theirs"),
            (Some("special"), "service.name=theirs", "special"),
            // What is left out does not name it, either.
            (None, "service.name=theirs,b", own),
        ] {
            let told = told(name, attributes, SERVICE_NAME);
            assert_eq!(told.as_deref(), Some(expected), "{name:?} {attributes}");
        }
        let version = told(None, "service.version=7", "service.version");
        assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(told(None, "", "telemetry.sdk.language").is_some());
    }
}
