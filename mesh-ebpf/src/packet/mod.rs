//! How packets are read, changed and sent; the only place that names `sk_buff`.

pub mod tc;
