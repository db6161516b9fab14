//! Requests to the forge: each with a time limit, each answer read up to a bound.
//!
//! Answers stay JSON values. Forgejo and Gitea differ in fields and in what may be null, by version too; a typed model of
//! one of them refuses what the other says. What a tool needs from an answer, it looks for.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, LOCATION};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use crate::config::{Config, Token};
use crate::error::ForgeError;
use crate::path::{ApiPath, Query};
use crate::said::{MESSAGE_CHARS_MAX, explanation, names_next, number, retry_after};

/// How much of a JSON answer is read.
pub(crate) const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How far a text (a diff, a file) can be read at all.
const TEXT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How much of an error's text is read and passed on.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const REDIRECTS_MAX: usize = 4;
/// A read that failed for a reason likely to pass is tried again after these.
const RETRIES: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(600)];
/// A read waits for the forge's rate limit itself if it is only this long.
const RATE_WAIT_MAX: Duration = Duration::from_secs(2);

/// The forge, as this server may speak to it.
#[derive(Debug)]
pub(crate) struct Forge {
    http: reqwest::Client,
    api: Url,
    token: Option<Token>,
    timeout: Duration,
    flavour: OnceCell<Flavour>,
    page_items_max: OnceCell<u64>,
}

/// Which of the two it is. They differ in a few names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Forgejo,
    Gitea,
}

/// An answer in JSON, and what its headers say about further pages.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) value: Value,
    /// `X-Total-Count`, where the endpoint sends it.
    pub(crate) total: Option<u64>,
    /// Whether `Link` names a next page; `None` without that header.
    pub(crate) next: Option<bool>,
}

/// A part of a text.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) bytes: Vec<u8>,
    /// Whether more follows.
    pub(crate) more: bool,
    /// The whole text's size, if the forge said it.
    pub(crate) total: Option<u64>,
}

impl Forge {
    /// Connects to nothing yet.
    pub(crate) fn new(config: Config) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("forgejo-mcp/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.timeout.min(Duration::from_secs(10)))
            // By hand, below: only to the same place.
            .redirect(reqwest::redirect::Policy::none())
            // Its own retries of protocol refusals would include writes.
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self {
            http,
            api: config.api,
            token: config.token,
            timeout: config.timeout,
            flavour: OnceCell::new(),
            page_items_max: OnceCell::new(),
        })
    }

    /// Takes the token out of a text that goes to the client.
    pub(crate) fn scrub(&self, text: &mut String) {
        if let Some(token) = &self.token {
            token.scrub(text);
        }
    }

    /// Reads JSON.
    pub(crate) async fn get(&self, path: &ApiPath, query: &Query) -> Result<Reply, ForgeError> {
        for attempt in 0.. {
            match self.get_once(path, query).await {
                Err(error) if again(&error, attempt).await => {}
                done => return done,
            }
        }
        unreachable!("the number of attempts is bounded")
    }

    async fn get_once(&self, path: &ApiPath, query: &Query) -> Result<Reply, ForgeError> {
        let response = self.request(Method::GET, path, query, None).await?;
        let headers = response.headers();
        let total = number(headers, "x-total-count");
        let next = headers
            .get("link")
            .map(|link| link.to_str().is_ok_and(names_next));
        let value = self.json(response, false).await?;
        Ok(Reply { value, total, next })
    }

    /// Reads `bytes_max` bytes of a text, from `start`; what comes before is passed over, what comes after is not read.
    pub(crate) async fn text(
        &self,
        path: &ApiPath,
        query: &Query,
        start: u64,
        bytes_max: usize,
    ) -> Result<Window, ForgeError> {
        for attempt in 0.. {
            match self.text_once(path, query, start, bytes_max).await {
                Err(error) if again(&error, attempt).await => {}
                done => return done,
            }
        }
        unreachable!("the number of attempts is bounded")
    }

    async fn text_once(
        &self,
        path: &ApiPath,
        query: &Query,
        start: u64,
        bytes_max: usize,
    ) -> Result<Window, ForgeError> {
        let mut response = self.request(Method::GET, path, query, None).await?;
        let total = response.content_length();
        let mut bytes = Vec::new();
        let mut at = 0_u64;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failed(&error, false))?
        {
            let passed_over = usize::try_from(start.saturating_sub(at))
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            at += chunk.len() as u64;
            bytes.extend_from_slice(&chunk[passed_over..]);
            if bytes.len() > bytes_max {
                bytes.truncate(bytes_max);
                return Ok(Window {
                    bytes,
                    more: true,
                    total,
                });
            }
            if at > TEXT_BYTES_MAX {
                return Err(ForgeError::TooLarge {
                    bytes_max: TEXT_BYTES_MAX as usize,
                    write: false,
                });
            }
        }
        Ok(Window {
            bytes,
            more: false,
            total: Some(at),
        })
    }

    /// Writes, once: whatever happens, it is not tried again here. An empty answer is null.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &ApiPath,
        query: &Query,
        body: Option<&Value>,
    ) -> Result<Value, ForgeError> {
        let response = self.request(method, path, query, body).await?;
        self.json(response, true).await
    }

    /// Which forge it is, asked once.
    pub(crate) async fn flavour(&self) -> Result<Flavour, ForgeError> {
        self.flavour.get_or_try_init(|| self.ask_flavour()).await.copied()
    }

    async fn ask_flavour(&self) -> Result<Flavour, ForgeError> {
        let version = self.get(&ApiPath::of("version"), &Query::new()).await?;
        // Forgejo says which Gitea its API is compatible with: `12.0.1+gitea-1.22.0`.
        let forgejo = version.value["version"]
            .as_str()
            .is_some_and(|version| version.contains("+gitea"));
        Ok(if forgejo { Flavour::Forgejo } else { Flavour::Gitea })
    }

    /// How many items the forge puts in a page at most, asked once.
    pub(crate) async fn page_items_max(&self) -> Result<u64, ForgeError> {
        self.page_items_max
            .get_or_try_init(|| self.ask_page_items_max())
            .await
            .copied()
    }

    async fn ask_page_items_max(&self) -> Result<u64, ForgeError> {
        let settings = self.get(&ApiPath::of("settings/api"), &Query::new()).await?;
        Ok(settings.value["max_response_items"]
            .as_u64()
            .filter(|items| *items > 0)
            .unwrap_or(50))
    }

    /// One request, followed through redirects within the API; its answer is a success whose body is not read yet.
    async fn request(
        &self,
        method: Method,
        path: &ApiPath,
        query: &Query,
        body: Option<&Value>,
    ) -> Result<Response, ForgeError> {
        let write = method != Method::GET;
        let mut url = self
            .api
            .join(path.as_str())
            .map_err(|error| ForgeError::Unintelligible {
                reason: format!("no URL can be made of this: {error}"),
                write: false,
            })?;
        if !query.pairs().is_empty() {
            url.query_pairs_mut().extend_pairs(query.pairs());
        }
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .timeout(self.timeout);
            request = request.header(ACCEPT, "application/json, text/plain, */*");
            if let Some(token) = self.token.as_ref().and_then(Token::header) {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(body) = body {
                request = request
                    .header("content-type", "application/json")
                    .body(body.to_string());
            }
            let response = request.send().await.map_err(|error| self.failed(&error, write))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(self.refused(status, response, write).await);
            }
            url = self.redirected(&url, &response, write)?;
        }
        Err(ForgeError::Unintelligible {
            reason: "it redirects without end".to_owned(),
            write: false,
        })
    }

    /// Where a redirect leads, if the token may go there and the request means the same there.
    fn redirected(&self, from: &Url, response: &Response, write: bool) -> Result<Url, ForgeError> {
        let status = response.status();
        let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let Some(to) = location.and_then(|to| from.join(to).ok()) else {
            return Err(ForgeError::Unintelligible {
                reason: format!("{} without a place to go to", status.as_u16()),
                write: false,
            });
        };
        let refused = |hint| {
            let mut to = to.clone();
            to.set_query(None);
            let _ = to.set_password(None);
            let _ = to.set_username("");
            Err(ForgeError::Redirected {
                to: to.as_str().chars().take(MESSAGE_CHARS_MAX).collect(),
                hint,
            })
        };
        if to.origin() != self.api.origin() {
            return refused("FORGEJO_URL should be the forge's own address, which its operator can set");
        }
        if !to.path().starts_with(self.api.path()) {
            return refused("it is outside of the forge's API; a sign-in page or a proxy may be in the way");
        }
        // These two alone keep the method and the body of a request.
        if write
            && !matches!(
                status,
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            )
        {
            return refused("the repository seems to have been renamed; use its present owner and name");
        }
        Ok(to)
    }

    async fn json(&self, mut response: Response, write: bool) -> Result<Value, ForgeError> {
        let bytes = self.body(&mut response, JSON_BYTES_MAX, write).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| ForgeError::Unintelligible {
            reason: format!("no JSON: {error}"),
            write,
        })
    }

    async fn body(
        &self,
        response: &mut Response,
        bytes_max: usize,
        write: bool,
    ) -> Result<Vec<u8>, ForgeError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failed(&error, write))?
        {
            if bytes.len() + chunk.len() > bytes_max {
                return Err(ForgeError::TooLarge { bytes_max, write });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// An answer that is no success.
    async fn refused(&self, status: StatusCode, mut response: Response, write: bool) -> ForgeError {
        if status == StatusCode::TOO_MANY_REQUESTS {
            return ForgeError::RateLimited {
                retry_after: retry_after(response.headers()),
            };
        }
        // What cannot be read of an explanation is not worth another error.
        let bytes = self
            .body(&mut response, ERROR_BYTES_MAX, write)
            .await
            .unwrap_or_default();
        let mut message = explanation(&bytes);
        self.scrub(&mut message);
        ForgeError::Status {
            status: status.as_u16(),
            message,
            anonymous: self.token.is_none(),
            write,
        }
    }

    fn failed(&self, error: &reqwest::Error, write: bool) -> ForgeError {
        if error.is_connect() {
            ForgeError::Unreachable {
                reason: root_cause(error),
            }
        } else if error.is_timeout() {
            ForgeError::Timeout {
                seconds: self.timeout.as_secs(),
                write,
            }
        } else {
            ForgeError::BrokenOff {
                reason: root_cause(error),
                write,
            }
        }
    }
}

/// Whether a read is to be tried again after its failure; if so, it is time for it when this returns.
async fn again(error: &ForgeError, attempt: usize) -> bool {
    let pause = match (error, RETRIES.get(attempt)) {
        (_, None) => return false,
        (
            ForgeError::RateLimited {
                retry_after: Some(after),
            },
            Some(_),
        ) if *after <= RATE_WAIT_MAX => *after,
        (error, Some(pause)) if error.is_transient() => *pause,
        (_, Some(_)) => return false,
    };
    tokio::time::sleep(pause).await;
    true
}

/// What lies at the bottom of an error: those above it repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error) {
        "the connection failed".to_owned()
    } else {
        cause.to_string()
    }
}
