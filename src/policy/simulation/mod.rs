//! The decisions walked together in virtual time: a small fleet, faults, agents that go on calling. Laws are asserted at
//! every step, for many seeds; a failing seed is printed and repeats exactly.

mod laws;
mod streams;
mod world;

mod outages;
mod residency;
mod scenarios;
