"""Object storage: addresses, credentials, and the calls to a bucket (the extra ``s3``)."""
