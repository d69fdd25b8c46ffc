# A client application in Rust, with Azure's libraries. For the tests.
FROM scratch
COPY client /client
USER 65532:65532
ENTRYPOINT ["/client"]
