"""Administrative commands of the services, run against the stores of a state folder."""
