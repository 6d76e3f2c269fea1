"""`python -m app.bench`: how fast the service is, measured by a load beside what could be had."""
