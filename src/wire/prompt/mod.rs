//! What a request's prompt is made of: hashes after which a cached beginning may end, and the chain of hashes over the
//! messages that names a session which nobody gave a name.
//!
//! The hashes go in the order of the chat templates (tools, system, messages), whatever the order of the members in the
//! body, and over the messages' bytes as they stand: clients repeat earlier messages byte for byte and append. Two things
//! that they do change from call to call are evened out (`normal`). Everything here depends on a prompt's beginning
//! alone: the same messages with more behind them give the same hashes, and then more.
//!
//! A `cache_salt` (or SGLang's `extra_key`) stands before all of it: engines share no cache between prompts whose salts differ, so
//! that nothing of the one is held where the other was read. It belongs to the conversation as well. That two which begin alike
//! share a start, and one that is repeated goes back there, has its reason in the cache; and salts are there to keep users of one
//! credential apart. To a client that makes up a new one for each call no cache is left to return to.
//!
//! Tokens are estimated from the bytes of text; an image, a sound or a file counts as the same however many bytes it has
//! (`media`), and is told from others by all of them.
//!
//! Hashes are XXH3 without a secret, the same at every edge and in every version. They are no defence: who can choose
//! prompts can make two collide, and then misleads the guess of his own cache. Conversations become sessions only
//! together with their client's scope.

mod digest;
mod json;
mod media;
mod normal;
mod read;
mod segments;

pub use read::read;
