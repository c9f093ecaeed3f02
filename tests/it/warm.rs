//! Sessions are known without being named, stay where they are warm, and are taken on as the caches hold them.

mod admission;
mod admission_ends;
mod admission_fair;
mod admission_reload;
mod agent;
mod branches;
mod call;
mod conversations;
mod engines;
mod queues;
mod stored;
