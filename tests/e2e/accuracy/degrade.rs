//! The lacks of hosts that the gate leaves out for want of time.

mod capabilities;
mod lacks;
