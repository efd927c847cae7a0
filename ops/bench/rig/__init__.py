"""What benchmarks run on: servers, floors, rounds, results."""
