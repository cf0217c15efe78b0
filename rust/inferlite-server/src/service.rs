//! One request, from its path to its reply.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use inferlite_core::repository::Served;
use smallvec::SmallVec;
use std::sync::Arc;

use crate::apart::{LARGE, LARGE_PACKED, apart, apart_if};
use crate::coding::Coding;
use crate::counts::Counts;
use crate::infer::{Urgency, infer};
use crate::routes::{Access, Route, Target};
use crate::state::State;
use crate::status::Failure;
use crate::wire::plain::PlainRequest;
use crate::wire::{Refusal, plain, request, response};
use crate::{admin, openapi, prometheus};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// How many bytes of a body are JSON, where tensors follow as they are.
const JSON_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What goes back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) content_type: HeaderValue,
    pub(crate) json_len: Option<usize>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(body: Vec<u8>) -> Self {
        Self {
            content_type: JSON,
            json_len: None,
            body,
        }
    }

    pub(crate) fn text(body: String) -> Self {
        Self {
            content_type: TEXT,
            json_len: None,
            body: body.into_bytes(),
        }
    }
}

/// What has not been read of a request's body.
///
/// It goes with the reply: if it is there when all of that is sent, the connection is closed. Where it was dropped before,
/// whatever a client may still send would be waited for without an end.
struct Unread(Option<Payload>);

/// A reply to a request of whose body something is left.
struct Holding {
    body: BoxBody,
    #[expect(dead_code, reason = "only kept")]
    unread: Unread,
}

impl MessageBody for Holding {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<web::Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// Answers any request.
pub(crate) async fn serve(request: &HttpRequest, payload: Payload, state: &State) -> HttpResponse {
    let start = Instant::now();
    let mut unread = Unread(Some(payload));
    let ended = answer(request, &mut unread, state).await;
    let mut response = match ended {
        Ok(reply) => respond(reply, state),
        Err(failure) => refuse(&failure, request),
    };
    if unread.0.is_some() {
        response = response.map_body(|_, body| BoxBody::new(Holding { body, unread }));
    }
    state.log(request, &response, start);
    response
}

async fn answer(request: &HttpRequest, unread: &mut Unread, state: &State) -> Result<Reply, Failure> {
    let decoded = percent_decoded(request.path())?;
    let route = Route::of(&decoded).ok_or_else(|| nothing_at(&decoded))?;
    if !route.takes(request.method().as_str()) {
        return Err(Failure::new(405, "Method Not Allowed"));
    }
    if !state.keys.admit(route.access(), &keys(request.headers())) {
        return Err(Failure::new(
            401,
            match route.access() {
                Access::Admin => "a key for administration is needed: send it as `Authorization: Bearer KEY`",
                Access::Open | Access::Inference => "a key is needed: send it as `Authorization: Bearer KEY`",
            },
        ));
    }
    match route {
        Route::Infer(target) => {
            let _guest = state.admit()?;
            protocol(request, unread, state, target).await
        }
        Route::Predict => {
            let _guest = state.admit()?;
            let body = body(request, unread, state).await?;
            let large = body.len() > LARGE;
            let repository = state.repository.clone();
            let read = move || {
                let head = plain::head(&body)?;
                let version = head.version.as_deref();
                let served = match &head.model {
                    Some(model) => repository.find(model, version)?,
                    None => repository.only(version)?,
                };
                let asked = plain::read(&head, served.model.signature(), &served.name);
                Ok::<_, Failure>((served, asked))
            };
            let (served, asked) = apart_if(large, read).await??;
            plainly(state, &served, asked).await
        }
        Route::Classic(target) => {
            let _guest = state.admit()?;
            let body = body(request, unread, state).await?;
            let served = found(state, target)?;
            let large = body.len() > LARGE;
            let model = served.clone();
            let read = move || plain::read_tensorflow(&body, model.model.signature(), &model.name);
            let asked = apart_if(large, read).await?;
            plainly(state, &served, asked).await
        }
        Route::Metrics => Ok(Reply::text(prometheus::text(state))),
        Route::OpenApi => Ok(Reply::json(openapi::description(&state.keys).into_bytes())),
        _ => {
            let body = if request.method() == "POST" {
                body(request, unread, state).await?
            } else {
                web::Bytes::new()
            };
            admin::answer(route, &body, state).await
        }
    }
}

/// The Open Inference Protocol's `infer`.
async fn protocol(
    request: &HttpRequest,
    unread: &mut Unread,
    state: &State,
    target: Target<'_>,
) -> Result<Reply, Failure> {
    let body = body(request, unread, state).await?;
    let served = found(state, target)?;
    let json_len = json_len(request.headers())?;
    let counts = state.counts_of(&served);
    let overdue = state.overdue(&served, &counts);
    let answered = async {
        let signature = served.model.signature();
        let asked = if body.len() > LARGE {
            let served = served.clone();
            apart(move || request::read(&body, json_len, served.model.signature(), &served.name)).await?
        } else {
            request::read(&body, json_len, signature, &served.name)
        }?;
        let urgency = Urgency {
            priority: asked.priority,
            timeout: asked.timeout.or(served.settings.timeout()),
        };
        let answer = infer(&served, asked.inputs, &asked.wanted.fetches, urgency, &overdue).await?;
        let head = response::Head {
            id: asked.id.as_deref(),
            model: &served.name,
            version: &served.version_text,
            signature,
            wanted: &asked.wanted,
        };
        let mut reply = Vec::with_capacity(512);
        let json_len = response::write(&mut reply, &head, &answer)?;
        Ok(Reply {
            content_type: if json_len.is_some() { BINARY } else { JSON },
            json_len,
            body: reply,
        })
    };
    counted(&counts, answered).await
}

/// The forms for plain clients.
async fn plainly(state: &State, served: &Arc<Served>, asked: Result<PlainRequest, Refusal>) -> Result<Reply, Failure> {
    let counts = state.counts_of(served);
    let overdue = state.overdue(served, &counts);
    let answered = async {
        let asked = asked?;
        let urgency = Urgency {
            priority: 0,
            timeout: asked.timeout.or(served.settings.timeout()),
        };
        let answer = infer(served, asked.inputs, &asked.fetches, urgency, &overdue).await?;
        let mut reply = Vec::with_capacity(256);
        plain::write(
            &mut reply,
            asked.form,
            &asked.fetches,
            served.model.signature(),
            &answer,
        )?;
        Ok(Reply::json(reply))
    };
    counted(&counts, answered).await
}

/// Counts how a request to a version ends.
async fn counted(counts: &Counts, answered: impl Future<Output = Result<Reply, Failure>>) -> Result<Reply, Failure> {
    let counted = counts.begin();
    let ended = answered.await;
    match &ended {
        Ok(_) => counted.succeed(),
        Err(failure) => counted.fail(failure.status),
    }
    ended
}

pub(crate) fn found(state: &State, target: Target<'_>) -> Result<Arc<Served>, Failure> {
    Ok(state.repository.find(target.model, target.version)?)
}

/// The whole body, decompressed.
async fn body(request: &HttpRequest, unread: &mut Unread, state: &State) -> Result<web::Bytes, Failure> {
    let limits = &state.limits;
    let limit = limits.body;
    let too_large = || Failure::new(413, format!("the body is larger than {limit} bytes"));
    let headers = request.headers();
    let coding = Coding::of(headers)?;
    if declared_len(headers).is_some_and(|len| len > limit) {
        return Err(too_large());
    }
    let Some(payload) = &mut unread.0 else {
        return Ok(web::Bytes::new());
    };
    let read = within(limits.body_time, whole(payload, limit)).await;
    let read = read.ok_or_else(|| Failure::new(408, format!("the body did not come within {:?}", limits.body_time)))?;
    let read = read.map_err(|error| Failure::new(400, format!("the body cannot be read: {}", reason(&error))))?;
    let body = read.ok_or_else(too_large)?;
    unread.0 = None;
    let Some(coding) = coding else { return Ok(body) };
    let unpacked = apart_if(body.len() > LARGE_PACKED, move || coding.unpack(&body, limit)).await?;
    unpacked?.map(web::Bytes::from).ok_or_else(too_large)
}

/// Why a body cannot be read, in words for whoever has sent it.
fn reason(error: &PayloadError) -> String {
    match error {
        PayloadError::Incomplete(_) => "it ends too early, or its chunks are malformed".to_owned(),
        other => other.to_string(),
    }
}

/// What comes of a future within a time; `None` if that is not enough.
async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    // Most bodies came with their heads, and are handed over once the future has been polled: they are spared the timer.
    let mut is_second = false;
    let early = poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if mem::replace(&mut is_second, true) => Poll::Ready(None),
        Poll::Pending => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match early.await {
        Some(done) => Some(done),
        None => tokio::time::timeout(time, future).await.ok(),
    }
}

/// All that is sent; `None` where that is more than the limit.
async fn whole(payload: &mut Payload, limit: usize) -> Result<Option<web::Bytes>, PayloadError> {
    // Most bodies come in one piece, which is not copied.
    let Some(first) = payload.next().await.transpose()? else {
        return Ok(Some(web::Bytes::new()));
    };
    if first.len() > limit {
        return Ok(None);
    }
    let Some(second) = payload.next().await.transpose()? else {
        return Ok(Some(first));
    };
    let mut body = web::BytesMut::with_capacity((first.len() + second.len()).next_power_of_two());
    body.extend_from_slice(&first);
    drop(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
        next = payload.next().await.transpose()?;
    }
    Ok(Some(body.freeze()))
}

fn declared_len(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn json_len(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let Some(value) = headers.get(JSON_LEN) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let number = number.ok_or_else(|| {
        let given = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Failure::new(
            400,
            format!("`Inference-Header-Content-Length` must be a number of bytes, not `{given}`"),
        )
    })?;
    Ok(Some(number))
}

/// The keys that a request brings, in either form.
fn keys(headers: &HeaderMap) -> SmallVec<[&[u8]; 2]> {
    let bearers = headers.get_all(header::AUTHORIZATION).filter_map(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let plain = headers.get_all("x-api-key").map(|value| value.as_bytes().trim_ascii());
    bearers.chain(plain).collect()
}

/// As Triton, but for the path of those who look around.
#[cold]
fn nothing_at(path: &str) -> Failure {
    let text = match path {
        "/" => "Not Found: `/openapi.json` describes what is there",
        _ => "Not Found",
    };
    Failure::new(404, text)
}

/// The path without `%41` and the like.
fn percent_decoded(path: &str) -> Result<std::borrow::Cow<'_, str>, Failure> {
    percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| Failure::new(404, "Not Found"))
}

fn respond(reply: Reply, state: &State) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, reply.content_type));
    if let Some(json_len) = reply.json_len {
        response.insert_header((JSON_LEN, HeaderValue::from(json_len)));
    }
    if state.is_draining() {
        response.force_close();
    }
    response.body(reply.body)
}

fn refuse(failure: &Failure, request: &HttpRequest) -> HttpResponse {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header((header::CONTENT_TYPE, JSON));
    if failure.may_retry {
        response.insert_header((header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    if failure.status == 401 {
        response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    if failure.status == 405
        && let Some(route) = Route::of(request.path())
    {
        response.insert_header((header::ALLOW, HeaderValue::from_static(route.methods())));
    }
    response.body(failure.body())
}
