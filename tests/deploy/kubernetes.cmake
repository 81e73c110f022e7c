# deploy/kubernetes: kubernetes_test.py needs no server, kubernetes_server_test.py starts one.
longdoc_add_python_test(kubernetes kubernetes_test.py)
longdoc_add_python_test(kubernetes_server kubernetes_server_test.py)
