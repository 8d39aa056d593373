//! What is answered to which request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::access::{self, Access};
use super::ready::{self, Readiness};
use super::snapshot::Snapshot;
use super::{exposition, queries, refusal, stats};
use crate::services::Services;

pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const HTML: &str = "text/html; charset=utf-8";

/// Requests for figures that are answered one after the other; more are turned away.
const SCRAPES: usize = 64;

/// The page; it has no other part, asks nobody but this port, and changes nothing.
const PAGE: &str = include_str!("page.html");

/// What a browser may do with it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What there is, for those whose client shows no pages.
const INDEX: &str = concat!(
    "Howdah ",
    env!("CARGO_PKG_VERSION"),
    "\n\n\
/         a page for people: pools, holders, statements, events\n\
/metrics  figures for Prometheus, in its text format\n\
/healthz  200 while the process lives\n\
/readyz   200 while new clients are served, 503 with the reason otherwise\n\
/readyz/DATABASE[/ROLE]  the same, with what the pools last saw of its servers\n\
/stats    pools and clients, with totals and averages, as JSON\n\
/queries  statements without their constants, those that took the most time first, as JSON\n\
/index    this list\n"
);

/// Everything that answers have in common.
#[derive(Debug)]
pub(super) struct Endpoints {
    services: Arc<Services>,
    /// Whether only this machine can ask. Elsewhere what tells of databases and users in detail is kept back.
    local: bool,
    /// Scrapes under way.
    scraping: Semaphore,
    /// Those and the ones that wait for their turn.
    scrapes: Semaphore,
    /// One at a time, so that nobody waits for it.
    written: Arc<Mutex<exposition::Last>>,
}

impl Endpoints {
    pub(super) fn new(services: Arc<Services>, local: bool) -> Self {
        Self {
            services,
            local,
            scraping: Semaphore::new(1),
            scrapes: Semaphore::new(SCRAPES),
            written: Arc::default(),
        }
    }

    pub(super) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// The answer, within `limit`. A body of the request is not read.
    pub(super) async fn answer<B>(&self, request: Request<B>, limit: Duration) -> Answer {
        let config = self.services.config();
        let process = &config.process;
        let mut access = access::of(request.headers(), process.ops_token.as_ref(), self.local);
        let path = request.uri().path();
        if process.ops_token.is_none()
            && self.local
            && !access::is_for_us(request.uri(), request.headers(), &process.ops_hosts)
        {
            if path != "/healthz" && path != "/readyz" && !path.starts_with("/readyz/") {
                return misdirected();
            }
            access = Access::Closed;
        }
        let answer = self.route(request.method(), path, access);
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                "there was no answer in time; try again later",
            )
        })
    }

    async fn route(&self, method: &Method, path: &str, access: Access) -> Answer {
        const PATHS: &[&str] = &["/", "/index", "/metrics", "/healthz", "/readyz", "/stats", "/queries"];
        let database = path.strip_prefix("/readyz/").filter(|d| !d.is_empty());
        if !PATHS.contains(&path) && database.is_none() {
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
        let all = access == Access::Everything;
        match path {
            "/metrics" => {
                let written = self.written.clone();
                let write = move |s| exposition::render(&s, &mut written.lock());
                self.scrape(exposition::TEXT_FORMAT, Snapshot::figures, write).await
            }
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n"),
            "/index" => response(StatusCode::OK, TEXT, INDEX),
            "/readyz" => ready_answer(ready::whole(&self.services, all)),
            _ if database.is_some() => match ready::one(&self.services, database.unwrap_or_default(), all) {
                Some(r) => ready_answer(r),
                None => problem(
                    StatusCode::NOT_FOUND,
                    "unknown_database",
                    "no such database or role is configured: /readyz/DATABASE or /readyz/DATABASE/ROLE",
                ),
            },
            "/" if !all => refusal::page(access),
            _ if !all => refused(access),
            "/stats" => self.scrape(JSON, Snapshot::take, |s| stats::render(&s)).await,
            "/queries" => self.scrape(JSON, |s| queries::render(s), |text| text).await,
            _ => {
                let mut r = response(StatusCode::OK, HTML, PAGE);
                r.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
                r
            }
        }
    }

    /// Takes the figures and writes them, off the threads that relay: /proc and many pools take milliseconds. The
    /// thread is one of its own, so that it may let the relay go first where all cores are busy.
    async fn scrape<T: 'static>(
        &self,
        format: &'static str,
        take: fn(&Arc<Services>) -> T,
        write: impl FnOnce(T) -> Result<String, String> + Send + 'static,
    ) -> Answer {
        let failed = |why: &str| problem(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", why);
        let Ok(_place) = self.scrapes.try_acquire() else {
            return problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_scrapes",
                &format!("{SCRAPES} other requests for figures wait for their turn; try again later"),
            );
        };
        let Ok(_turn) = self.scraping.acquire().await else { return failed("shutting down") };
        let services = self.services.clone();
        let (give, taken) = oneshot::channel();
        let render = move || {
            // Under locks that the relay needs, and therefore not yet behind it.
            let figures = take(&services);
            step_back();
            let _ = give.send(write(figures));
        };
        if let Err(e) = std::thread::Builder::new().name("howdah-ops".to_owned()).spawn(render) {
            return failed(&format!("there is no thread for it: {e}"));
        }
        match taken.await {
            Ok(Ok(text)) => response(StatusCode::OK, format, text),
            Ok(Err(why)) => {
                tracing::error!(error = %why, "ops port: cannot render");
                failed(&why)
            }
            Err(_) => {
                self.services.counters.count("panics_total", "ops");
                failed("the figures could not be collected")
            }
        }
    }
}

/// How much lower a thread's priority is that writes for the ops port.
pub(super) const NICE: i32 = 10;

/// This thread goes on at a lower priority, for the rest of its life (only a privileged one may raise it again).
pub(super) fn step_back() {
    let (me, now) = (rustix::thread::gettid(), rustix::process::getpriority_process(None));
    let nice = now.unwrap_or(0).saturating_add(NICE).min(19);
    // Where it is refused, the answer comes all the same.
    let _ = rustix::process::setpriority_process(Some(me), nice);
}

/// The listeners are open before this one is served, and a configuration that is in force is valid.
fn ready_answer(r: Readiness) -> Answer {
    let status = if r.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, JSON, format!("{}\n", json!(r)))
}

/// Asked by a name that could be anybody's.
fn misdirected() -> Answer {
    problem(
        StatusCode::MISDIRECTED_REQUEST,
        "host_not_allowed",
        "without an ops_token this is answered only to requests whose Host is localhost, a loopback address or one of \
         ops_hosts; /healthz and /readyz are answered to all",
    )
}

/// What tells of statements, clients and addresses is not for everybody.
fn refused(access: Access) -> Answer {
    if access == Access::Closed {
        return problem(
            StatusCode::FORBIDDEN,
            "token_needed",
            "without an ops_token this is answered only where ops_listen is a loopback address",
        );
    }
    with_login(problem(StatusCode::UNAUTHORIZED, "unauthorized", "this needs the ops_token"))
}

/// A browser asks for a password then.
pub(super) fn with_login(mut r: Answer) -> Answer {
    r.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Howdah\""));
    r
}

/// What somebody at a browser sees in place of the page.
pub(super) fn html(status: StatusCode, text: String) -> Answer {
    let mut r = response(status, HTML, text);
    r.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    r
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
