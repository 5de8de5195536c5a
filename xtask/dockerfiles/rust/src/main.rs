//! A program with a dependency.

fn main() {
    println!("{}", hex::encode("rust"));
}
