//! Which path is answered with what. Pure: from what the board shows, and which node this is.
//!
//! The paths for load balancers follow Patroni: 200 where traffic may go to this node, else 503. `/primary` (also `/`
//! with HEAD or OPTIONS, `/leader` and `/read-write`), `/replica` with an optional `lag`, `/read-only`, `/health` (the
//! server runs), `/liveness` (the daemon's pictures are fresh), `/readiness`.

use std::time::Duration;

use serde_json::json;

use super::request::Request;
use super::{Answer, metrics};
use crate::monitor::daemon::board::Shown;
use crate::monitor::judge::Picture;
use crate::monitor::view::{NodeView, Role, View};

/// The page: no asset of anybody else.
const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPTS: [&str; 2] = [include_str!("draw.js"), include_str!("page.js")];

/// What the answers depend on besides the board.
#[derive(Debug, Clone)]
pub struct Site {
    /// This node.
    pub node: String,
    /// How often pictures come.
    pub interval: Duration,
}

/// Answers a request.
pub fn answer(request: &Request, shown: &Shown, site: &Site) -> Answer {
    let Some(view) = shown.view.as_deref().filter(|_| shown.is_fresh(site.interval)) else {
        return not_fresh(request, shown);
    };
    let own = view.node(&site.node);
    match request.path.as_str() {
        "/" if request.method != "GET" => role(own, is_primary(view, own)),
        "/" => page(),
        "/primary" | "/leader" | "/read-write" => role(own, is_primary(view, own)),
        "/replica" => replica(request, own),
        "/read-only" => match own.map(|own| own.role) {
            Some(Role::Standby) => replica(request, own),
            _ => role(own, is_primary(view, own)),
        },
        "/health" | "/readiness" => role(own, own.is_some_and(|own| own.state == "running")),
        "/liveness" => Answer::text(200, "watching\n"),
        "/status.json" => Answer::json(200, &json!(Picture { view, level: shown.level(), findings: &shown.findings })),
        "/series.json" => Answer::json(200, &json!(&*shown.series)),
        "/events.json" => Answer::json(200, &json!(&*shown.events)),
        "/metrics" => Answer {
            status: 200,
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics::text(view, &shown.findings).into_bytes(),
        },
        _ => Answer::text(404, "there is nothing here\n"),
    }
}

/// Without a fresh picture nothing is said about any node; the page itself can still say that.
fn not_fresh(request: &Request, shown: &Shown) -> Answer {
    match (request.path.as_str(), request.method.as_str()) {
        ("/", "GET") => page(),
        ("/series.json", _) => Answer::json(200, &json!(&*shown.series)),
        ("/events.json", _) => Answer::json(200, &json!(&*shown.events)),
        _ => Answer::text(503, "the daemon has no fresh picture of the cluster\n"),
    }
}

fn page() -> Answer {
    let text = PAGE.replace("/*style*/", STYLE).replace("/*script*/", &SCRIPTS.concat());
    Answer { status: 200, kind: "text/html; charset=utf-8", body: text.into_bytes() }
}

/// The node of this daemon takes writes, and is the one that should. A rival gets no traffic.
fn is_primary(view: &View, own: Option<&NodeView>) -> bool {
    own.is_some_and(|own| view.primary.as_ref() == Some(&own.name))
}

/// A standby that runs, and is near enough to the primary where a distance is asked for. An unknown one is too far.
fn replica(request: &Request, own: Option<&NodeView>) -> Answer {
    let standby = own.is_some_and(|own| own.role == Role::Standby);
    match request.size("lag") {
        None => role(own, standby),
        Some(Err(())) => Answer::text(400, "lag must be bytes, or a size such as 16MB\n"),
        Some(Ok(most)) => {
            let behind = own.and_then(|own| own.lag.replayed).and_then(|mark| mark.bytes);
            role(own, standby && behind.is_some_and(|behind| behind <= most))
        }
    }
}

/// What Patroni's users look at: the role, the state and the position, with the code for the balancer.
fn role(own: Option<&NodeView>, good: bool) -> Answer {
    let status = if good { 200 } else { 503 };
    let Some(own) = own else { return Answer::text(status, "this node is not in the configuration\n") };
    let position = own.lag.replayed.or(own.lag.flushed);
    Answer::json(
        status,
        &json!({
            "name": own.name, "role": own.role, "state": own.state, "timeline": own.timeline,
            "server_version": own.version, "replayed": position, "replication": own.replication,
        }),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::monitor::judge::tests::{judged, limits};
    use crate::monitor::observation::How;
    use crate::monitor::view::tests::Scene;

    fn shown(scene: &Scene) -> Shown {
        let view = scene.view();
        let findings = judged(&view, &limits());
        Shown { view: Some(Arc::new(view)), findings: Arc::new(findings), at: Some(Instant::now()), ..Shown::default() }
    }

    fn ask(scene: &Scene, node: &str, line: &str) -> Answer {
        let request = Request::parse(format!("{line} HTTP/1.1").as_bytes()).expect("because it is well formed");
        answer(&request, &shown(scene), &Site { node: node.to_owned(), interval: Duration::from_secs(1) })
    }

    #[test]
    fn balancers_get_the_codes_they_know() {
        let scene = Scene::healthy();
        let codes = [
            ("db1", "GET /primary", 200),
            ("db2", "GET /primary", 503),
            ("db1", "OPTIONS /", 200),
            ("db2", "HEAD /", 503),
            ("db1", "GET /replica", 503),
            ("db2", "GET /replica", 200),
            ("db2", "GET /replica?lag=2MB", 200),
            ("db2", "GET /replica?lag=4096", 503),
            ("db2", "GET /replica?lag=near", 400),
            ("db1", "GET /read-only", 200),
            ("db2", "GET /read-only", 200),
            ("w", "GET /read-only", 503),
            ("dr1", "GET /replica", 503),
            ("db1", "GET /health", 200),
            ("w", "GET /health", 503),
            ("w", "GET /liveness", 200),
            ("db1", "GET /nothing", 404),
            ("db1", "GET /", 200),
        ];
        for (node, line, code) in codes {
            assert_eq!(ask(&scene, node, line).status, code, "{node} {line}");
        }
        let gone = Scene::healthy().gone("db2", How::Hung);
        assert_eq!(ask(&gone, "db2", "GET /replica").status, 503);
        // A node that was promoted behind our back gets no writes.
        let rogue = Scene::healthy().promoted("db2", 2);
        assert_eq!((ask(&rogue, "db2", "GET /primary").status, ask(&rogue, "db1", "GET /primary").status), (503, 200));
    }

    #[test]
    fn an_old_picture_is_none() {
        let mut shown = shown(&Scene::healthy());
        shown.at = Instant::now().checked_sub(Duration::from_secs(60));
        let site = Site { node: "db1".to_owned(), interval: Duration::from_secs(1) };
        for (path, code) in [("/primary", 503), ("/liveness", 503), ("/status.json", 503), ("/", 200)] {
            let request = Request::parse(format!("GET {path} HTTP/1.1").as_bytes()).expect("because it is well formed");
            assert_eq!(answer(&request, &shown, &site).status, code, "{path}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let body = String::from_utf8(page().body).expect("because it is text");
        assert!(body.contains("<svg") || body.contains("createElementNS"), "nothing is drawn");
        for foreign in ["http://", "https://", "//cdn", "@import", "url("] {
            let allowed = body.matches(foreign).count()
                - body.matches("http://www.w3.org/").count() * usize::from(foreign == "http://");
            assert_eq!(allowed, 0, "{foreign}");
        }
    }
}
