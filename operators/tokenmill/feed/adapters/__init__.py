"""A store or a feed as other libraries read data; each module needs the library it is named for."""
