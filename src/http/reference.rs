//! The APIs for people to read: a page of both documents at `/docs/` of the operators' address, and
//! a page for each kind of problem at `/problems/`. They are made of the documents at the start,
//! have no scripts, and ask for nothing but their style sheet.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::get;
use serde_json::{Map, Value};
use utoipa::openapi::OpenApi;

use super::file::{CSS, File, HTML};
use super::problem::not_found;
use super::problem_kind::{PROBLEMS_PATH, ProblemKind};

/// Where the page is.
pub const PAGE_PATH: &str = "/docs/";
/// Where its style sheet is.
const STYLE_PATH: &str = "/docs/style.css";

const STYLE: &str = include_str!("reference.css");

/// The route of the page of those documents.
pub(super) fn page<S: Clone + Send + Sync + 'static>(documents: &[OpenApi]) -> Router<S> {
    let page = File::new(HTML, render(documents));
    let without_slash = PAGE_PATH.trim_end_matches('/');
    Router::new()
        .route(
            PAGE_PATH,
            get(async move |headers: HeaderMap| page.reply(&headers)),
        )
        .route(without_slash, get(async || Redirect::permanent(PAGE_PATH)))
        .merge(style(STYLE_PATH))
}

/// The routes of the pages that explain problems.
pub(super) fn problems<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let pages: Vec<(ProblemKind, File)> = ProblemKind::ALL
        .iter()
        .map(|kind| (*kind, File::new(HTML, render_problem(*kind))))
        .collect();
    let all = File::new(HTML, render_problems());
    let explain = async move |Path(name): Path<String>, uri: Uri, headers: HeaderMap| match pages
        .iter()
        .find(|(kind, _)| kind.name() == name)
    {
        Some((_, page)) => page.reply(&headers),
        None => not_found(uri).await.into_response(),
    };
    Router::new()
        .route(&format!("{PROBLEMS_PATH}/{{name}}"), get(explain))
        .route(
            &format!("{PROBLEMS_PATH}/"),
            get(async move |headers: HeaderMap| all.reply(&headers)),
        )
        .merge(style(&problem_style_path()))
}

fn problem_style_path() -> String {
    format!("{PROBLEMS_PATH}/style.css")
}

fn style<S: Clone + Send + Sync + 'static>(path: &str) -> Router<S> {
    let style = File::new(CSS, STYLE);
    Router::new().route(
        path,
        get(async move |headers: HeaderMap| style.reply(&headers)),
    )
}

/// A whole page.
fn html(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <title>{}</title>\n<link rel=\"stylesheet\" href=\"{style}\">\n</head>\n<body>\n{body}</body>\n\
        </html>\n",
        escape(title)
    )
}

fn render_problem(kind: ProblemKind) -> String {
    let body = format!(
        "<main>\n<h1>{}</h1>\n<p><code>{}</code>, status {}</p>\n<p>{}</p>\n\
        <p><a href=\"{PROBLEMS_PATH}/\">All problems</a></p>\n</main>\n",
        escape(kind.title()),
        kind.reference(),
        kind.status().as_u16(),
        text(kind.meaning())
    );
    html(kind.title(), &problem_style_path(), &body)
}

fn render_problems() -> String {
    let mut body =
        "<main>\n<h1>Problems</h1>\n<p>What the <code>type</code> of an error says.</p>\n<dl>\n"
            .to_owned();
    for kind in ProblemKind::ALL {
        let _ = writeln!(
            body,
            "<dt><a href=\"{}\"><code>{0}</code></a>, status {}</dt><dd>{}</dd>",
            kind.reference(),
            kind.status().as_u16(),
            text(kind.meaning())
        );
    }
    body.push_str("</dl>\n</main>\n");
    html("Problems", &problem_style_path(), &body)
}

fn render(documents: &[OpenApi]) -> String {
    let documents: Vec<Document> = documents.iter().enumerate().map(Document::new).collect();
    let mut body =
        "<header>\n<h1>API reference</h1>\n</header>\n<nav aria-label=\"Operations\">\n".to_owned();
    for document in &documents {
        let title = document.info("title");
        let _ = writeln!(body, "<h2>{}</h2>\n<ul>", escape(title));
        for operation in document.operations() {
            let _ = writeln!(
                body,
                "<li><a href=\"#{}\"><code>{} {}</code></a></li>",
                document.anchor(operation.id),
                operation.method,
                escape(operation.path)
            );
        }
        body.push_str("</ul>\n");
    }
    body.push_str("</nav>\n<main>\n");
    for document in &documents {
        document.write(&mut body);
    }
    body.push_str("</main>\n");
    html("API reference", STYLE_PATH, &body)
}

/// One document as JSON, whose shape is that of OpenAPI 3.1.
struct Document {
    /// What makes its anchors differ from those of the others.
    number: usize,
    json: Value,
}

struct Operation<'a> {
    path: &'a str,
    method: String,
    id: &'a str,
    json: &'a Value,
}

impl Document {
    fn new((number, document): (usize, &OpenApi)) -> Self {
        let json = serde_json::to_value(document);
        let json = json.expect("a document of text, numbers and maps with text keys is JSON");
        Self { number, json }
    }

    fn info(&self, field: &str) -> &str {
        self.json["info"][field].as_str().unwrap_or_default()
    }

    fn anchor(&self, name: &str) -> String {
        format!("api{}-{name}", self.number)
    }

    fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        members(&self.json["paths"]).flat_map(|(path, methods)| {
            members(methods).map(|(method, json)| Operation {
                path,
                method: method.to_uppercase(),
                id: json["operationId"].as_str().unwrap_or_default(),
                json,
            })
        })
    }

    fn write(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "<section>\n<h2>{}</h2>\n{}",
            escape(self.info("title")),
            paragraphs(self.info("description"))
        );
        for tag in elements(&self.json["tags"]) {
            let name = tag["name"].as_str().unwrap_or_default();
            let description = tag["description"].as_str().unwrap_or_default();
            let _ = writeln!(
                out,
                "<h3>{}</h3>\n{}",
                escape(name),
                paragraphs(description)
            );
            for operation in self.operations() {
                if elements(&operation.json["tags"]).any(|tag| *tag == *name) {
                    self.write_operation(out, &operation);
                }
            }
        }
        out.push_str("<h3>Schemas</h3>\n");
        for (name, schema) in members(&self.json["components"]["schemas"]) {
            let anchor = self.anchor(name);
            let _ = writeln!(out, "<h4 id=\"{anchor}\">{}</h4>", escape(name));
            self.write_schema(out, schema);
        }
        out.push_str("</section>\n");
    }

    fn write_operation(&self, out: &mut String, operation: &Operation<'_>) {
        let json = operation.json;
        let _ = writeln!(
            out,
            "<article>\n<h4 id=\"{}\"><code>{} {}</code></h4>\n<p><strong>{}</strong></p>\n{}",
            self.anchor(operation.id),
            operation.method,
            escape(operation.path),
            text(json["summary"].as_str().unwrap_or_default()),
            paragraphs(json["description"].as_str().unwrap_or_default())
        );
        let parameters = elements(&json["parameters"]).map(|parameter| {
            [
                name_of(
                    parameter["name"].as_str().unwrap_or_default(),
                    parameter["required"] == true,
                ),
                escape(parameter["in"].as_str().unwrap_or_default()),
                self.kind(&parameter["schema"]),
                text(parameter["description"].as_str().unwrap_or_default()),
            ]
        });
        table(
            out,
            "Parameters",
            ["Name", "In", "Type", "Meaning"],
            parameters,
        );
        for (media_type, content) in members(&json["requestBody"]["content"]) {
            let kind = self.kind(&content["schema"]);
            let _ = writeln!(
                out,
                "<p>Body: {kind} as <code>{}</code></p>",
                escape(media_type)
            );
        }
        let responses = members(&json["responses"]).map(|(status, response)| {
            let content = members(&response["content"])
                .map(|(media_type, content)| {
                    let kind = self.kind(&content["schema"]);
                    format!("{kind} as <code>{}</code>", escape(media_type))
                })
                .collect::<Vec<_>>();
            [
                escape(status),
                content.join(", "),
                paragraphs(response["description"].as_str().unwrap_or_default()),
            ]
        });
        table(out, "Responses", ["Status", "Body", "Meaning"], responses);
        out.push_str("</article>\n");
    }

    fn write_schema(&self, out: &mut String, schema: &Value) {
        out.push_str(&paragraphs(
            schema["description"].as_str().unwrap_or_default(),
        ));
        if schema["properties"].is_null() {
            let _ = writeln!(out, "<p>{}</p>", self.kind(schema));
            return;
        }
        let required: Vec<&Value> = elements(&schema["required"]).collect();
        let fields = members(&schema["properties"]).map(|(name, field)| {
            let is_required = required.iter().any(|required| **required == *name);
            [
                name_of(name, is_required),
                self.kind(field),
                text(field["description"].as_str().unwrap_or_default()),
            ]
        });
        table(out, "Fields", ["Name", "Type", "Meaning"], fields);
    }

    /// What a schema takes, in a few words.
    fn kind(&self, schema: &Value) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return format!("<a href=\"#{}\">{}</a>", self.anchor(name), escape(name));
        }
        for composed in ["oneOf", "anyOf", "allOf"] {
            if !schema[composed].is_null() {
                let kinds: Vec<String> = elements(&schema[composed])
                    .map(|each| self.kind(each))
                    .collect();
                return kinds.join(if composed == "allOf" { " and " } else { " or " });
            }
        }
        if !schema["enum"].is_null() {
            let words: Vec<String> = elements(&schema["enum"])
                .map(|word| format!("<code>{}</code>", escape(&word.to_string())))
                .collect();
            return words.join(" or ");
        }
        let mut types: Vec<&str> = elements(&schema["type"])
            .filter_map(Value::as_str)
            .collect();
        types.extend(schema["type"].as_str());
        let kinds: Vec<String> = types
            .into_iter()
            .map(|kind| match kind {
                "array" => format!("array of {}", self.kind(&schema["items"])),
                "object" if schema["additionalProperties"].is_object() => {
                    format!("map to {}", self.kind(&schema["additionalProperties"]))
                }
                kind => escape(kind),
            })
            .collect();
        let mut words = kinds.join(" or ");
        if let Some(format) = schema["format"].as_str() {
            let _ = write!(words, " ({})", escape(format));
        }
        for (bound, sign) in [("minimum", "≥"), ("maximum", "≤")] {
            if schema[bound].is_number() {
                let _ = write!(words, " {sign} {}", escape(&schema[bound].to_string()));
            }
        }
        words
    }
}

/// A table with a caption; nothing where it would be empty.
fn table<const N: usize>(
    out: &mut String,
    caption: &str,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let head = head.map(|cell| format!("<th scope=\"col\">{cell}</th>"));
    let _ = writeln!(
        out,
        "<table>\n<caption>{caption}</caption>\n<thead><tr>{}</tr></thead>\n<tbody>",
        head.concat()
    );
    for row in rows {
        let cells = row.map(|cell| format!("<td>{cell}</td>"));
        let _ = writeln!(out, "<tr>{}</tr>", cells.concat());
    }
    out.push_str("</tbody>\n</table>\n");
}

fn name_of(name: &str, required: bool) -> String {
    let mark = if required { ", required" } else { "" };
    format!("<code>{}</code>{mark}", escape(name))
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The paragraphs of a description.
fn paragraphs(description: &str) -> String {
    let paragraphs = description.split("\n\n").map(str::trim);
    paragraphs
        .filter(|paragraph| !paragraph.is_empty())
        .map(|paragraph| format!("<p>{}</p>", text(paragraph)))
        .collect()
}

/// Text in which code stands between backticks.
fn text(description: &str) -> String {
    let mut out = String::new();
    for (number, part) in description.split('`').enumerate() {
        let part = escape(part);
        match number % 2 {
            0 => out.push_str(&part),
            _ => {
                let _ = write!(out, "<code>{part}</code>");
            }
        }
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Api, OperatorApi};

    #[test]
    fn the_page_has_every_operation_and_every_link_leads_somewhere() {
        let documents = [Api::document(), OperatorApi::document()];
        let page = render(&documents);
        let mut operations = 0;
        for document in documents.iter().enumerate().map(Document::new) {
            for operation in document.operations() {
                operations += 1;
                let anchor = document.anchor(operation.id);
                assert!(page.contains(&format!("<h4 id=\"{anchor}\">")), "{anchor}");
            }
        }
        assert!(operations > 15, "{operations}");
        let links = page.split("href=\"#").skip(1);
        for link in links.filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn what_stands_in_a_document_is_text_and_no_markup() {
        assert_eq!(
            text("a `<b>` & \"c\""),
            "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;"
        );
    }
}
