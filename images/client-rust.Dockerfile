# A client application in Rust, with Azure's crate, which does not start without CA roots. For the tests.
FROM scratch
COPY client /client
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/client"]
