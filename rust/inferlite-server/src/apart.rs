//! Work that would hold up the other connections of a worker for too long.

use crate::status::Failure;

/// So many bytes of a body are read on a thread of their own: on the worker's, they would take a millisecond or more.
pub(crate) const LARGE: usize = 1 << 20;

/// So many bytes of a compressed body are unpacked there, since each may become a thousand.
pub(crate) const LARGE_PACKED: usize = 2 << 10;

/// Does something on a thread that no connection waits for.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = actix_web::web::block(work).await;
    done.map_err(|_| Failure::new(503, "the server is stopping"))
}

/// Does something on such a thread if it is large, else at once.
pub(crate) async fn apart_if<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if is_large { apart(work).await } else { Ok(work()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn what_is_done_apart_lets_others_go_on() {
        actix_web::rt::System::new().block_on(async {
            let (small_is_done, waits) = mpsc::channel();
            // It ends only when the other one, which comes later to the same thread, has ended.
            let large = apart(move || waits.recv_timeout(Duration::from_secs(30)));
            let small = async move { small_is_done.send(()).unwrap() };
            let (large, ()) = futures_util::future::join(large, small).await;
            assert_eq!(large.unwrap(), Ok(()));
            let thread = || std::thread::current().id();
            assert_eq!(apart_if(false, thread).await, Ok(thread()));
            assert_ne!(apart_if(true, thread).await, Ok(thread()));
        });
    }
}
