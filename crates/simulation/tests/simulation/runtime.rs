//! The executor of a simulation: one thread, a clock that jumps to the next timer, and an order of
//! tasks that depends on the seed alone.
//!
//! tokio's scheduler would run tasks in the order in which they were woken, and
//! `tokio::sync::watch` wakes its waiters in an order that we do not control. Here all tasks that
//! can run are known before the next one runs, and the seed determines the order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use shoutd_consensus::testing::{self, Work, set_executor};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;

use super::chance::Chance;
use super::host;

/// The process that a task belongs to, whose crash ends it. Zero is the simulation itself.
pub(crate) type Owner = u64;

type TaskId = u64;

thread_local! {
    static EXECUTOR: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

struct Executor {
    tasks: RefCell<BTreeMap<TaskId, (Owner, Option<Work>)>>,
    ready: Arc<Ready>,
    last: Cell<TaskId>,
    running: Cell<Owner>,
    order: RefCell<Chance>,
    elections: RefCell<Chance>,
}

/// The tasks that can run.
#[derive(Default)]
struct Ready {
    tasks: Mutex<BTreeSet<TaskId>>,
    root: Mutex<Option<Waker>>,
}

struct TaskWaker {
    task: TaskId,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.tasks.lock().insert(self.task);
        if let Some(root) = &*self.ready.root.lock() {
            root.wake_by_ref();
        }
    }
}

impl Executor {
    fn spawn(&self, owner: Owner, work: Work) {
        let task = self.last.get() + 1;
        self.last.set(task);
        self.tasks.borrow_mut().insert(task, (owner, Some(work)));
        Arc::new(TaskWaker { task, ready: Arc::clone(&self.ready) }).wake();
    }

    /// Runs tasks until none can run.
    fn run_ready(&self) {
        loop {
            let ready = std::mem::take(&mut *self.ready.tasks.lock());
            if ready.is_empty() {
                return;
            }
            let mut ready: Vec<TaskId> = ready.into_iter().collect();
            self.order.borrow_mut().shuffle(&mut ready);
            ready.into_iter().for_each(|task| self.run_one(task));
        }
    }

    fn run_one(&self, task: TaskId) {
        let taken = self
            .tasks
            .borrow_mut()
            .get_mut(&task)
            .and_then(|(owner, work)| Some((*owner, work.take()?)));
        let Some((owner, mut work)) = taken else { return };
        self.running.set(owner);
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&self.ready) }));
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let dropped = {
            let mut tasks = self.tasks.borrow_mut();
            match tasks.get_mut(&task) {
                Some((_, slot)) if !done => slot.replace(work),
                _ => {
                    tasks.remove(&task);
                    Some(work)
                }
            }
        };
        // Outside the borrow: dropping it may start or end other tasks.
        drop(dropped);
        self.running.set(0);
    }
}

impl testing::Executor for Executor {
    fn spawn(&self, work: Work) {
        self.spawn(self.running.get(), work);
    }

    fn draw(&self) -> u64 {
        self.elections.borrow_mut().next()
    }

    fn wall_clock(&self) -> Option<Duration> {
        host::wall_clock()
    }
}

/// Runs a simulation with this seed to its end.
pub(crate) fn run<T: 'static>(seed: u64, simulation: impl Future<Output = T> + 'static) -> T {
    let executor = Rc::new(Executor {
        tasks: RefCell::default(),
        ready: Arc::default(),
        last: Cell::new(0),
        running: Cell::new(0),
        order: RefCell::new(Chance::new(seed, "order")),
        elections: RefCell::new(Chance::new(seed, "elections")),
    });
    // Removes the executor also when the simulation panics.
    struct Cleanup;
    impl Drop for Cleanup {
        fn drop(&mut self) {
            set_executor(None);
            let executor = EXECUTOR.take();
            if let Some(executor) = executor {
                let tasks = executor.tasks.take();
                drop(tasks);
            }
        }
    }
    EXECUTOR.set(Some(Rc::clone(&executor)));
    set_executor(Some(Rc::<Executor>::clone(&executor)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let _cleanup = Cleanup;
    let (sender, mut receiver) = oneshot::channel();
    executor.spawn(
        0,
        Box::pin(unconstrained(async move {
            let _ = sender.send(simulation.await);
        })),
    );
    runtime.block_on(std::future::poll_fn(|context| {
        *executor.ready.root.lock() = Some(context.waker().clone());
        executor.run_ready();
        match receiver.try_recv() {
            Ok(result) => Poll::Ready(result),
            Err(oneshot::error::TryRecvError::Empty) => Poll::Pending,
            Err(oneshot::error::TryRecvError::Closed) => {
                panic!("the simulation ended its own task")
            }
        }
    }))
}

fn executor() -> Option<Rc<Executor>> {
    EXECUTOR.with(|executor| executor.try_borrow().ok()?.clone())
}

/// Starts a task of this owner.
pub(crate) fn spawn(owner: Owner, work: impl Future<Output = ()> + 'static) {
    if let Some(executor) = executor() {
        executor.spawn(owner, Box::pin(unconstrained(work)));
    }
}

/// Drops all tasks of this owner, as when its process is killed.
pub(crate) fn kill(owner: Owner) {
    let Some(executor) = executor() else { return };
    let ended: Vec<_> = {
        let mut tasks = executor.tasks.borrow_mut();
        let ids: Vec<_> =
            tasks.iter().filter(|(_, (whose, _))| *whose == owner).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
    };
    // Outside the borrow: dropping them may start or end other tasks.
    drop(ended);
}

/// The owner of the task that runs now, within a simulation.
pub(super) fn current() -> Option<Owner> {
    executor().map(|executor| executor.running.get())
}
