# Context: the static program, and the CA roots of a Debian.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY controller /controller
USER 65532:65532
ENTRYPOINT ["/controller"]
