# Context: the static program, and the CA roots of a Debian.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY webhook /webhook
USER 65532:65532
ENTRYPOINT ["/webhook"]
