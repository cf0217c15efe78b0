//! Runs that go on when the time of their caller is over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inferlite_core::ticket::Bell;
use tokio::sync::oneshot;

use crate::counts::Counts;

/// A run that was told to end has so much time to do so before somebody is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many notices are kept; the oldest go first.
const MOST_NOTICES: usize = 256;

/// What the server's owner should know, until it is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notices(Arc<Mutex<VecDeque<String>>>);

impl Notices {
    pub(crate) fn add(&self, notice: String) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() == MOST_NOTICES {
            notices.pop_front();
        }
        notices.push_back(notice);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }
}

/// Watches the runs of one version.
#[derive(Debug)]
pub(crate) struct Overdue<'a> {
    pub(crate) model: &'a str,
    pub(crate) version: &'a str,
    pub(crate) counts: &'a Arc<Counts>,
    pub(crate) notices: &'a Notices,
}

impl Overdue<'_> {
    /// Counts a run until it ends, and says so if that takes long.
    pub(crate) fn watch(&self, bell: Bell) {
        let (rings, rung) = oneshot::channel();
        let counts = self.counts.clone();
        counts.more_overdue();
        bell.when_ended(Box::new(move || {
            counts.fewer_overdue();
            let _ = rings.send(());
        }));
        let (notices, name) = (
            self.notices.clone(),
            format!("version {} of model `{}`", self.version, self.model),
        );
        actix_web::rt::spawn(async move {
            if tokio::time::timeout(PATIENCE, rung).await.is_err() {
                notices.add(format!(
                    "a run of {name} has not ended {} s after the time of its caller was over",
                    PATIENCE.as_secs()
                ));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::rt::System;
    use inferlite_core::batch::Terms;
    use inferlite_core::cache::Missed;
    use inferlite_core::runtime::{Engine, Outputs, Signature};
    use inferlite_core::{Call, Model, Result};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Does not return until it is told to, whatever else it is told.
    #[derive(Debug)]
    struct Stubborn {
        signature: Signature,
        has_begun: Sender<()>,
        may_return: Mutex<Receiver<()>>,
    }

    impl Engine for Stubborn {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&self, _call: &Call<'_>) -> Result<Outputs<'_>> {
            self.has_begun.send(()).expect("the test listens");
            let may_return = self.may_return.lock().expect("no panic");
            may_return.recv().expect("the test says so");
            Ok(Outputs::default())
        }

        fn is_straight_line(&self) -> bool {
            false
        }

        fn name(&self) -> &'static str {
            "stubborn"
        }
    }

    #[test]
    fn a_run_that_goes_on_is_counted_until_it_ends_and_told_of_once() {
        let (has_begun, begun) = channel();
        let (lets_go, may_return) = channel();
        let engine = Stubborn {
            signature: Signature {
                inputs: Vec::new(),
                required: 0,
                outputs: Vec::new(),
            },
            has_begun,
            may_return: Mutex::new(may_return),
        };
        let model = Arc::new(Model::new("stubborn".to_owned(), Box::new(engine), None));
        let call = Call {
            feeds: &[],
            fetches: &[],
            options: None,
        };
        let (counts, notices) = (Arc::<Counts>::default(), Notices::default());
        let overdue = Overdue {
            model: "m",
            version: "3",
            counts: &counts,
            notices: &notices,
        };
        System::new().block_on(async {
            tokio::time::pause();
            let ticket = model
                .begin(&call, Missed::Skipped, Terms::default())
                .expect("there is a thread");
            // A run that nobody waits for any more does not begin.
            begun.recv().expect("it begins");
            overdue.watch(ticket.bell());
            drop(ticket);
            assert_eq!(counts.overdue(), 1);
            tokio::time::sleep(PATIENCE.saturating_sub(Duration::from_millis(1))).await;
            assert!(notices.take().is_empty());
            tokio::time::sleep(Duration::from_millis(2)).await;
            let told = "a run of version 3 of model `m` has not ended 10 s after the time of its caller was over";
            assert_eq!(notices.take(), [told]);
            assert_eq!(counts.overdue(), 1);
            lets_go.send(()).expect("it waits");
            while counts.overdue() > 0 {
                std::thread::yield_now();
            }
            tokio::time::sleep(2 * PATIENCE).await;
            assert!(notices.take().is_empty());
        });
    }

    #[test]
    fn the_newest_notices_are_kept_until_they_are_taken() {
        let notices = Notices::default();
        for number in 0..=MOST_NOTICES {
            notices.add(number.to_string());
        }
        let taken = notices.take();
        assert_eq!((taken.len(), taken[0].as_str()), (MOST_NOTICES, "1"));
        assert!(notices.take().is_empty());
    }
}
