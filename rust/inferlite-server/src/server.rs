//! The server as its owner sees it: started, asked, stopped.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use actix_web::dev::{self, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::guard::GuardContext;
use actix_web::http::header;
use actix_web::middleware::Compress;
use actix_web::rt::System;
use actix_web::{App, HttpServer, web};
use inferlite_core::repository::Repository;

use crate::access_log::AccessLogSettings;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::service;
use crate::state::State;
use crate::watch;

/// How long a client may take to close a connection that the server has closed.
const LINGER: Duration = Duration::from_secs(1);

/// How a repository is served.
#[derive(Debug)]
pub struct ServerSettings {
    /// The address to listen on.
    pub host: String,
    /// 0 for one that is free.
    pub port: u16,
    /// Threads that read requests and write replies.
    pub workers: usize,
    /// The most that clients may ask.
    pub limits: Limits,
    /// Who may ask.
    pub keys: Keys,
    /// How long requests under way have to end once the server is told to stop.
    pub drain_time: Duration,
    /// How often the repository's folder is looked at; `None` for never.
    pub watch: Option<Duration>,
    /// Where a line for each request goes.
    pub access_log: Option<AccessLogSettings>,
}

/// A server, which stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    workers: Option<JoinHandle<io::Result<()>>>,
    /// Says that the watcher and all loaders have ended.
    watched: Mutex<mpsc::Receiver<()>>,
    state: Arc<State>,
    is_stopping: Arc<Stopping>,
    drain_time: Duration,
}

/// Tells the watcher to end.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    is_told: Mutex<bool>,
    told: Condvar,
}

impl Stopping {
    fn tell(&self) {
        *self.is_told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// Waits that long, or until it is time to end; whether it is.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let is_told = self.is_told.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(is_told, time, |is_told| !*is_told);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Server {
    /// Listens, and answers from now on; models are loaded meanwhile.
    ///
    /// # Errors
    /// Where the address cannot be had, or a thread cannot be made.
    pub fn start(repository: Arc<Repository>, settings: ServerSettings) -> io::Result<Self> {
        let address = (settings.host.as_str(), settings.port);
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let listener = TcpListener::bind(addresses.as_slice())?;
        let address = listener.local_addr()?;
        let interval = settings.watch;
        let (count, drain_time) = (settings.workers.max(1), settings.drain_time);
        let state = Arc::new(State::new(repository, settings)?);
        let (handles, handle) = mpsc::sync_channel(1);
        let served = state.clone();
        let workers = Builder::new().name("inferlite-server".to_owned()).spawn(move || {
            let system = System::new();
            let serve = || system.block_on(run(listener, served, count, drain_time, &handles));
            let ended =
                catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(|panic| Err(io::Error::other(text_of(&*panic))));
            if ended.is_err() {
                // Workers whose threads were made before one could not be wait for nothing but this.
                System::current().stop();
                let _ = system.run();
            }
            ended
        })?;
        let Ok(handle) = handle.recv() else {
            let ended = workers
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the server panicked")));
            return Err(ended
                .err()
                .unwrap_or_else(|| io::Error::other("the server ended at once")));
        };
        let is_stopping = Arc::<Stopping>::default();
        let (repository, until) = (state.repository.clone(), is_stopping.clone());
        let (alive, watched) = mpsc::sync_channel(1);
        // Dropped where no thread can be had for what follows, which ends all that has begun.
        let started = Self {
            address,
            handle,
            workers: Some(workers),
            watched: Mutex::new(watched),
            state,
            is_stopping,
            drain_time,
        };
        Builder::new()
            .name("inferlite-models".to_owned())
            .spawn(move || watch::watch(&repository, interval, &until, alive))?;
        Ok(started)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.state.repository
    }

    /// What its owner should know and has not been told yet.
    #[must_use]
    pub fn take_notices(&self) -> Vec<String> {
        self.state.take_notices()
    }

    /// Takes no more connections, waits for the requests under way for as long as the settings say, and ends.
    pub fn stop(&mut self) {
        let Some(workers) = self.workers.take() else { return };
        self.state.drain();
        self.is_stopping.tell();
        // The command is sent at once; what it returns would only wait.
        drop(self.handle.stop(true));
        let _ = workers.join();
        // A model that is being loaded cannot always be told to end: its thread is left behind then.
        let watched = self.watched.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = watched.recv_timeout(self.drain_time);
        self.state.repository.close();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(
    listener: TcpListener,
    state: Arc<State>,
    workers: usize,
    drain_time: Duration,
    handles: &mpsc::SyncSender<ServerHandle>,
) -> io::Result<()> {
    let limits = &state.limits;
    let shared = state.clone();
    let server = HttpServer::new(move || {
        let state = shared.clone();
        let serve = move |request: ServiceRequest| {
            let state = state.clone();
            async move {
                let (request, payload) = request.into_parts();
                let response = service::serve(&request, payload, &state).await;
                Ok(ServiceResponse::new(request, response))
            }
        };
        // Replies that are as they are do without the layer that would pack them.
        let packing = web::scope("")
            .guard(says_what_it_accepts)
            .wrap(Compress::default())
            .default_service(dev::fn_service(serve.clone()));
        App::new().service(packing).default_service(dev::fn_service(serve))
    })
    .workers(workers)
    .max_connections(limits.connections.div_ceil(workers))
    .client_request_timeout(limits.header_time)
    .client_disconnect_timeout(LINGER)
    .keep_alive(limits.idle_time)
    .shutdown_timeout(drain_time.as_secs())
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    let mut server = pin!(server);
    // Its threads are made when it is polled first: whoever gets the handle has a server that answers.
    if let Poll::Ready(ended) = poll_fn(|context| Poll::Ready(server.as_mut().poll(context))).await {
        return ended;
    }
    let _ = handles.send(handle);
    server.await
}

/// What a panic says, as where the thread of a worker cannot be made.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the server panicked: {}", text.unwrap_or("it does not say why"))
}

/// Whether a client says in which codings it takes replies.
fn says_what_it_accepts(context: &GuardContext<'_>) -> bool {
    context.head().headers().contains_key(header::ACCEPT_ENCODING)
}
