"""The figures of a service over all its workers, and what is looked at for them now and then."""
