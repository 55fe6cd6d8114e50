"""The bytes: kept in an S3 bucket or a folder, described so that the catalogue can be made anew from them."""
