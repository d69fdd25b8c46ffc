# A client application in Java: a runtime and Azure's libraries. For the tests.
FROM scratch
COPY root/ /
USER 65532:65532
ENTRYPOINT ["/jre/bin/java", "-XX:-UsePerfData", "-cp", "/client:/client/*", "Client"]
