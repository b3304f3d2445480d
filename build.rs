//! Lets a migration that is added be compiled in: the compiler itself only knows of those that were
//! there.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
