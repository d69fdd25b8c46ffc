# A client application in JavaScript: Node.js and Azure's libraries. For the tests.
FROM scratch
COPY root/ /
USER 65532:65532
ENTRYPOINT ["/node", "/client/client.js"]
