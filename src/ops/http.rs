//! What is answered to which request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::snapshot::Snapshot;
use super::{exposition, stats};
use crate::services::Services;

pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = concat!(
    "Howdah ",
    env!("CARGO_PKG_VERSION"),
    "\n\n\
/metrics  figures for Prometheus, in its text format\n\
/healthz  200 while the process lives\n\
/readyz   200 while new clients are served, 503 with the reason otherwise\n\
/stats    pools and clients, with totals and averages, as JSON\n"
);

/// Everything that answers have in common.
#[derive(Debug)]
pub(super) struct Endpoints {
    services: Arc<Services>,
    /// Whether only this machine can ask. Elsewhere what tells of databases and users in detail is kept back.
    local: bool,
    /// Scrapes under way.
    scraping: Semaphore,
}

impl Endpoints {
    pub(super) fn new(services: Arc<Services>, local: bool) -> Self {
        Self { services, local, scraping: Semaphore::new(1) }
    }

    /// The answer, within `limit`. A body of the request is not read.
    pub(super) async fn answer<B>(&self, request: Request<B>, limit: Duration) -> Answer {
        let answer = self.route(request.method(), request.uri().path());
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                "there was no answer in time; try again later",
            )
        })
    }

    async fn route(&self, method: &Method, path: &str) -> Answer {
        if !["/", "/metrics", "/healthz", "/readyz", "/stats"].contains(&path) {
            return problem(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing here; / lists what there is",
            );
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut r = problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the ops port is read-only: only GET and HEAD are answered",
            );
            r.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return r;
        }
        match path {
            "/metrics" => self.scrape(exposition::TEXT_FORMAT, exposition::render).await,
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            "/stats" if self.local => self.scrape(JSON, stats::render).await,
            "/stats" => problem(
                StatusCode::FORBIDDEN,
                "loopback_only",
                "/stats answers only where ops_listen is a loopback address",
            ),
            _ => response(StatusCode::OK, TEXT, INDEX),
        }
    }

    /// The listeners are open before this one is served, and a configuration that is in force is valid.
    fn ready(&self) -> Answer {
        if self.services.draining.load(Ordering::Relaxed) {
            let why = json!({ "ready": false, "reason": "draining: new clients are refused" });
            return response(StatusCode::SERVICE_UNAVAILABLE, JSON, format!("{why}\n"));
        }
        if let Some((part, reason)) = self.services.not_ready.lock().first_key_value() {
            let why = json!({ "ready": false, "reason": format!("{part}: {reason}") });
            return response(StatusCode::SERVICE_UNAVAILABLE, JSON, format!("{why}\n"));
        }
        if self.services.starting.load(Ordering::Relaxed) {
            let why = json!({ "ready": false, "reason": "starting: servers are asked and minimums opened" });
            return response(StatusCode::SERVICE_UNAVAILABLE, JSON, format!("{why}\n"));
        }
        response(StatusCode::OK, JSON, format!("{}\n", json!({ "ready": true })))
    }

    /// Renders off the threads that relay: /proc and many pools take milliseconds.
    async fn scrape(&self, format: &'static str, render: fn(&Snapshot) -> Result<String, String>) -> Answer {
        let failed = |why: &str| problem(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", why);
        let Ok(_turn) = self.scraping.acquire().await else { return failed("shutting down") };
        let services = self.services.clone();
        let rendered = tokio::task::spawn_blocking(move || render(&Snapshot::take(&services))).await;
        match rendered {
            Ok(Ok(text)) => response(StatusCode::OK, format, text),
            Ok(Err(why)) => {
                tracing::error!(error = %why, "ops port: cannot render");
                failed(&why)
            }
            Err(e) => {
                if e.is_panic() {
                    self.services.counters.count("panics_total", "ops");
                }
                failed("the figures could not be collected")
            }
        }
    }
}

fn problem(status: StatusCode, code: &str, message: &str) -> Answer {
    response(status, JSON, format!("{}\n", json!({ "error": code, "message": message })))
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut r = Response::new(Full::new(body.into()));
    *r.status_mut() = status;
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    r
}
