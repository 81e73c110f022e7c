# deploy/docker: the list of packages against the server, the Dockerfile's text, its stages replayed.
longdoc_add_python_test(docker docker_test.py)
