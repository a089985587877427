"""One file or package per wire contract. Each only translates between HTTP and `EditService`."""
