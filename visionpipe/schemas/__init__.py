"""What crosses the wire, as pydantic models: images, requests, results, jobs."""
