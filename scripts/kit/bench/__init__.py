"""What thread safety costs: what is timed, how, and the page."""
