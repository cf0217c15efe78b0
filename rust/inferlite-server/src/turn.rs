//! Calls of one turn of a worker's event loop, which leave together at its end.
//!
//! A worker reads all requests that have arrived, one task each, before it looks at its sockets again. What these tasks
//! ask of a batched model is gathered here; a task that the first of them starts lets the others have their turn, and
//! then begins all of it at once, on this very thread where the batch is over before another thread would have begun it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use inferlite_core::batch::Terms;
use inferlite_core::ticket::{Asked, Ticket};
use inferlite_core::{Error, ErrorKind, Model, Result};
use tokio::sync::oneshot;

/// How often the task lets others go first. A request that is in the socket's buffer takes a wake-up to read, and
/// another one to handle.
const COURTESY: usize = 2;

/// How long a worker may run a batch itself. Its other connections wait meanwhile; handing the batch over would cost two
/// changes of threads, and take a processor from another worker.
const PATIENCE: Duration = Duration::from_micros(500);

struct Caller {
    model: Arc<Model>,
    asked: Asked,
    terms: Terms,
    told: oneshot::Sender<Result<Ticket>>,
}

/// What leaves together, as far as the model allows.
struct Group {
    model: Arc<Model>,
    asked: Vec<(Asked, Terms)>,
    told: Vec<oneshot::Sender<Result<Ticket>>>,
}

thread_local! {
    static CALLERS: RefCell<Vec<Caller>> = const { RefCell::new(Vec::new()) };
}

/// Begins a call at the end of this turn.
pub(crate) async fn join(model: &Arc<Model>, asked: Asked, terms: Terms) -> Result<Ticket> {
    let (told, ticket) = oneshot::channel();
    let is_first = CALLERS.with_borrow_mut(|callers| {
        callers.push(Caller {
            model: model.clone(),
            asked,
            terms,
            told,
        });
        callers.len() == 1
    });
    if is_first {
        actix_web::rt::spawn(async {
            for _ in 0..COURTESY {
                tokio::task::yield_now().await;
            }
            flush();
        });
    }
    let stopping = |_| Err(Error::new(ErrorKind::Closed, "the server is stopping"));
    ticket.await.unwrap_or_else(stopping)
}

/// Begins all that has been gathered.
fn flush() {
    let callers = CALLERS.take();
    let mut groups: Vec<Group> = Vec::new();
    for caller in callers {
        // Its client has gone.
        if caller.told.is_closed() {
            continue;
        }
        let known = groups.iter_mut().find(|group| Arc::ptr_eq(&group.model, &caller.model));
        let group = if let Some(group) = known {
            group
        } else {
            groups.push(Group {
                model: caller.model,
                asked: Vec::new(),
                told: Vec::new(),
            });
            groups.last_mut().expect("one was pushed")
        };
        group.asked.push((caller.asked, caller.terms));
        group.told.push(caller.told);
    }
    for group in groups {
        let begun = group.model.begin_all(group.asked, PATIENCE);
        for (told, ticket) in std::iter::zip(group.told, begun) {
            // A caller who has gone drops the ticket, and with it the claim to an answer.
            let _ = told.send(ticket);
        }
    }
}
