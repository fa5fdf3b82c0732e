//! Bounds the memory that large bodies of requests and responses take together, however slowly
//! peers send or read them.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, header};
use axum::response::Response;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Rejection;
use crate::limits::{BODY_BYTES_MAX, BULK_BYTES_MAX, SMALL_BODY_BYTES_MAX};

/// The budget for large bodies. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BULK_BYTES_MAX)))
    }

    fn take(&self, octets: usize) -> Result<Option<OwnedSemaphorePermit>, Rejection> {
        if octets <= SMALL_BODY_BYTES_MAX {
            return Ok(None);
        }
        u32::try_from(octets)
            .ok()
            .and_then(|octets| Arc::clone(&self.0).try_acquire_many_owned(octets).ok())
            .map(Some)
            .ok_or_else(|| Rejection::Busy {
                reason: format!("{BULK_BYTES_MAX} bytes of large messages are in flight"),
            })
    }

    /// The limit on this request's body, and the permit for it. A body without a `Content-Length`
    /// must be small.
    pub(crate) fn admit<B>(
        &self,
        request: &Request<B>,
    ) -> Result<(usize, Option<OwnedSemaphorePermit>), Rejection> {
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let limit = declared.map_or(SMALL_BODY_BYTES_MAX, |length: usize| {
            length.clamp(SMALL_BODY_BYTES_MAX, BODY_BYTES_MAX)
        });
        Ok((limit, self.take(limit)?))
    }

    /// A response that holds its permit until its last byte is sent.
    pub(crate) fn hold(&self, response: Response) -> Result<Response, Rejection> {
        let octets =
            response.body().size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
        let Some(permit) = self.take(octets.unwrap_or(BODY_BYTES_MAX))?.map(Arc::new) else {
            return Ok(response);
        };
        let hold =
            move |data: Bytes| Bytes::from_owner(Held { data, _permit: Arc::clone(&permit) });
        Ok(response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&hold)))))
    }
}

/// Bytes that wait to be sent. The HTTP/2 connection keeps them after the body is dropped.
struct Held {
    data: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}
