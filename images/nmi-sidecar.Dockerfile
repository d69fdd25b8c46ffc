# Context: the static program, and the CA roots of a Debian.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY nmi-sidecar /nmi-sidecar
USER 65532:65532
ENTRYPOINT ["/nmi-sidecar"]
