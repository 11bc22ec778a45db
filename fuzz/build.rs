//! The second decoder, in C.

fn main() {
    let source = "../uapi/tests/c/formats.c";
    println!("cargo::rerun-if-changed={source}");
    cc::Build::new().file(source).std("c11").compile("formats");
}
