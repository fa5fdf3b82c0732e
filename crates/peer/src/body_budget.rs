//! Bounds what large bodies of requests and answers take together, whoever sends them or does not
//! read them.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, header};
use axum::response::Response;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Rejection;
use crate::limits::{BODY_BYTES_MAX, BULK_BYTES_MAX, SMALL_BODY_BYTES_MAX};

/// Room for large bodies. Clones share it.
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
        let busy = || Rejection::Busy {
            reason: format!("{BULK_BYTES_MAX} octets of large messages are under way"),
        };
        let octets = u32::try_from(octets).map_err(|_| busy())?;
        Arc::clone(&self.0).try_acquire_many_owned(octets).map(Some).map_err(|_| busy())
    }

    /// How large the body of a request may be, and the room for it. One that does not say how large
    /// it is must be small.
    pub(crate) fn admit<B>(
        &self,
        request: &Request<B>,
    ) -> Result<(usize, Option<OwnedSemaphorePermit>), Rejection> {
        let says = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let largest = says.map_or(SMALL_BODY_BYTES_MAX, |says: usize| {
            says.clamp(SMALL_BODY_BYTES_MAX, BODY_BYTES_MAX)
        });
        Ok((largest, self.take(largest)?))
    }

    /// An answer that holds its room until the last of its octets is sent.
    pub(crate) fn hold(&self, response: Response) -> Result<Response, Rejection> {
        let octets =
            response.body().size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
        let Some(permit) = self.take(octets.unwrap_or(BODY_BYTES_MAX))?.map(Arc::new) else {
            return Ok(response);
        };
        let hold = move |data: Bytes| Bytes::from_owner(Held { data, _room: Arc::clone(&permit) });
        Ok(response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&hold)))))
    }
}

/// Octets that wait to be sent. The connection keeps them after the body that they were of is gone.
struct Held {
    data: Bytes,
    _room: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}
