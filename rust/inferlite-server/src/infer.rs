//! One call, from a request's tensors to its answer.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use inferlite_core::batch::Terms;
use inferlite_core::repository::Served;
use inferlite_core::runtime::OwnedFeeds;
use inferlite_core::ticket::{Asked, Ticket};
use inferlite_core::{Answer, Call, Error, ErrorKind, Feed, Model, Result};

use crate::overdue::Overdue;
use crate::status::Failure;
use crate::turn;
use crate::wire::contradiction;

/// What a request says of its turn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Urgency {
    /// Higher ones go first.
    pub(crate) priority: i32,
    /// How long the answer is of use.
    pub(crate) timeout: Option<Duration>,
}

/// Answers a call without holding up the event loop of this thread for long.
pub(crate) async fn infer<'m>(
    served: &'m Served,
    inputs: OwnedFeeds,
    fetches: &[usize],
    urgency: Urgency,
    overdue: &Overdue<'_>,
) -> Result<Answer<'m>, Failure> {
    let model = &served.model;
    let call = Call {
        feeds: inputs.feeds(),
        fetches,
        options: None,
    };
    let missed = match model.look_up(&call) {
        Ok(found) => return Ok(found.into()),
        Err(missed) => missed,
    };
    let terms = Terms {
        priority: urgency.priority,
        deadline: urgency
            .timeout
            .map(|timeout| model.clock().now().saturating_add(timeout)),
    };
    if !model.is_batched() && !model.asks_others() && model.is_brief(model.workload(&call)) {
        // It is over before the deadline matters, and before another thread would have begun it.
        let run = AssertUnwindSafe(|| model.compute(&call, missed, &Terms::default(), &|| Ok(())));
        let ended =
            catch_unwind(run).unwrap_or_else(|_| Err(Error::new(ErrorKind::RuntimeException, "the engine panicked")));
        return ended.map_err(|error| blamed(error, call.feeds, served));
    }
    let asked = Asked::owned(inputs, fetches, missed);
    let answered = wait(model, asked.clone(), terms, urgency.timeout, overdue).await;
    answered.map_err(|error| blamed(error, asked.feeds(), served))
}

/// Has a call run, and waits for its answer.
async fn wait(
    model: &Arc<Model>,
    asked: Asked,
    terms: Terms,
    timeout: Option<Duration>,
    overdue: &Overdue<'_>,
) -> Result<Answer<'static>> {
    let mut ticket = if model.is_batched() {
        turn::join(model, asked, terms).await?
    } else {
        model.begin_asked(asked, terms)?
    };
    let Some(timeout) = timeout else {
        return answer(&mut ticket).await;
    };
    let waited = tokio::time::timeout(timeout, answer(&mut ticket)).await;
    waited.unwrap_or_else(|_| {
        overdue.watch(ticket.bell());
        Err(Error::new(
            ErrorKind::DeadlineExceeded,
            format!("the answer did not come within {timeout:?}"),
        ))
    })
}

/// What a failed run is to the client: its own mistake, where its inputs contradict each other.
#[cold]
fn blamed(error: Error, feeds: &[Feed], served: &Served) -> Failure {
    let failure = Failure::from(error);
    let contradiction =
        (failure.status == 500).then(|| contradiction::between(feeds, served.model.signature(), &served.name));
    contradiction.flatten().map_or(failure, Failure::from)
}

/// Waits for the answer of a ticket; to drop the ticket gives the claim up.
async fn answer(ticket: &mut Ticket) -> Result<Answer<'static>> {
    struct Rung {
        has_rung: AtomicBool,
        waker: AtomicWaker,
    }
    let mut bell: Option<Arc<Rung>> = None;
    poll_fn(move |context| {
        loop {
            if let Some(rung) = &bell {
                rung.waker.register(context.waker());
                if !rung.has_rung.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
            }
            match ticket.answer() {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) => {}
            }
            let rung = Arc::new(Rung {
                has_rung: AtomicBool::new(false),
                waker: AtomicWaker::new(),
            });
            let rings = rung.clone();
            bell = Some(rung);
            ticket.bell().when_ended(Box::new(move || {
                rings.has_rung.store(true, Ordering::Release);
                rings.waker.wake();
            }));
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use actix_web::rt::System;
    use inferlite_core::clock::Clock;
    use inferlite_core::repository::{ModelSettings, Opener, Repository, RepositorySettings, VersionFiles};
    use inferlite_core::runtime::{Argument, Dim, Engine, Outputs, Signature, ValueType};
    use inferlite_core::tensor::Tensor;
    use inferlite_core::{Dtype, Input};
    use smallvec::smallvec;

    use super::*;
    use crate::counts::Counts;
    use crate::folder::Folder;
    use crate::overdue::Notices;

    /// Gives nothing, and panics where it is fed a number below zero.
    #[derive(Debug)]
    struct Explosive(Signature);

    impl Engine for Explosive {
        fn signature(&self) -> &Signature {
            &self.0
        }

        fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
            let Input::Tensor(view) = &call.feeds[0].value else {
                panic!("a tensor is fed")
            };
            let mut bytes = [0; 1];
            view.copy_part(0, &mut bytes);
            assert!(bytes[0].cast_signed() >= 0, "as told");
            Ok(Outputs::default())
        }

        fn is_straight_line(&self) -> bool {
            true
        }

        fn name(&self) -> &'static str {
            "explosive"
        }
    }

    struct Opens;

    impl Opener for Opens {
        fn open(&self, files: &VersionFiles, _: &ModelSettings) -> Result<Arc<Model>> {
            let value_type = ValueType::Tensor {
                dtype: Dtype::Int8,
                shape: Some(vec![Dim::Fixed(1)]),
            };
            let engine = Explosive(Signature {
                inputs: vec![Argument::new("x".into(), value_type).unwrap()],
                required: 1,
                outputs: Vec::new(),
            });
            Ok(Arc::new(Model::new(files.name.clone(), Box::new(engine), None)))
        }
    }

    #[test]
    fn a_panic_of_the_model_is_its_failure_and_the_next_call_is_answered() {
        let folder = Folder::of("infer", &["m.onnx"]);
        let settings = RepositorySettings { settle: Duration::ZERO };
        let repository = Repository::new(folder.0.clone(), Box::new(Opens), settings, Clock::default()).unwrap();
        repository.load_all(&|_| ()).unwrap();
        let served = repository.find("m", None).unwrap();
        let (counts, notices) = (Arc::<Counts>::default(), Notices::default());
        let overdue = Overdue {
            model: &served.name,
            version: &served.version_text,
            counts: &counts,
            notices: &notices,
        };
        let fed = |number: i8| {
            let mut inputs = OwnedFeeds::default();
            inputs.push(
                0,
                Tensor::from_bytes(Dtype::Int8, smallvec![1], &number.to_ne_bytes()).unwrap(),
            );
            inputs
        };
        let ask = async |number| {
            infer(&served, fed(number), &[], Urgency::default(), &overdue)
                .await
                .map(|answer| answer.len())
        };
        let is_brief = || {
            let inputs = fed(1);
            let call = Call {
                feeds: inputs.feeds(),
                fetches: &[],
                options: None,
            };
            served.model.is_brief(served.model.workload(&call))
        };
        System::new().block_on(async {
            // On a thread of the model's as long as little is known of it, and then on this one.
            for is_known in [false, true] {
                while is_known && !is_brief() {
                    assert_eq!(ask(1).await.unwrap(), 0);
                }
                assert_eq!(is_brief(), is_known);
                let failure = ask(-1).await.unwrap_err();
                assert_eq!(failure.status, 500);
                assert_eq!(
                    String::from_utf8(failure.body()).unwrap(),
                    r#"{"error":"the engine panicked"}"#
                );
                assert_eq!(ask(1).await.unwrap(), 0);
            }
        });
    }
}
