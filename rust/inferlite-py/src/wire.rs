//! A wire from any thread to an event loop: what is pulled on one end makes the other readable.

#[cfg(unix)]
mod system {
    use std::io::{self, Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    pub(crate) struct Pull(UnixStream);
    pub(crate) struct Bell(UnixStream);

    pub(crate) fn stretch() -> io::Result<(Pull, Bell)> {
        let (bell, pull) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        pull.set_nonblocking(true)?;
        Ok((Pull(pull), Bell(bell)))
    }

    impl Pull {
        pub(crate) fn pull(&self) {
            // Full means that there is enough to read; a loop that is closed is past telling.
            let _ = (&self.0).write(&[0]);
        }
    }

    impl Bell {
        /// What an event loop watches.
        pub(crate) fn file_number(&self) -> i32 {
            self.0.as_raw_fd()
        }

        pub(crate) fn hush(&self) {
            // Nothing to read is no matter.
            let _ = (&self.0).read(&mut [0; 64]);
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub(crate) enum Pull {}
    pub(crate) enum Bell {}

    pub(crate) fn stretch() -> io::Result<(Pull, Bell)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    impl Pull {
        pub(crate) fn pull(&self) {
            match *self {}
        }
    }

    impl Bell {
        pub(crate) fn file_number(&self) -> i32 {
            match *self {}
        }

        pub(crate) fn hush(&self) {
            match *self {}
        }
    }
}

pub(crate) use system::{Bell, Pull, stretch};
