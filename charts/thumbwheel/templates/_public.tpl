{{/* Reject public endpoints that the API server or a controller would refuse, or would ignore. */}}
{{- define "thumbwheel.validatePublic" -}}
{{- $service := .Values.publicService -}}{{- $ingress := .Values.ingress -}}{{- $routes := .Values.gatewayApi -}}
{{- if ne $service.type "LoadBalancer" -}}
  {{- range list "loadBalancerClass" "loadBalancerSourceRanges" -}}
    {{- if index $service . -}}{{ println (printf "publicService.%s: publicService.type %s has no load balancer; set type LoadBalancer or remove the value" . $service.type) }}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}{{ println "publicService.externalTrafficPolicy: publicService.type ClusterIP has no external traffic; set type LoadBalancer or NodePort, or remove the value" }}{{- end -}}
{{- if $ingress.enabled -}}
  {{- if not $ingress.host -}}{{ println "ingress.host: the Ingress needs a host" }}{{- end -}}
  {{- if and (eq $ingress.tls "secret") (not $ingress.tlsSecret) -}}{{ println "ingress.tlsSecret: the Ingress needs a secret with its certificate; set ingress.tls to controller if the controller or a load balancer has the certificate, to openshift for the certificate of OpenShift's router, or to none for plain HTTP" }}{{- end -}}
  {{- if and (ne $ingress.tls "secret") $ingress.tlsSecret -}}{{ println (printf "ingress.tls: %s does not use ingress.tlsSecret; remove one of the two" $ingress.tls) }}{{- end -}}
{{- end -}}
{{- range $name, $route := $routes -}}
  {{- if and $route.enabled (not $route.gateway) -}}{{ println (printf "gatewayApi.%s.gateway: the route needs a Gateway" $name) }}{{- end -}}
{{- end -}}
{{- if and $routes.http.enabled $routes.grpc.enabled $routes.http.gateway (include "thumbwheel.oneListener" .) -}}
  {{- range $http := $routes.http.hosts | default (list "") -}}
    {{- range $grpc := $routes.grpc.hosts | default (list "") -}}
      {{- if include "thumbwheel.hostsOverlap" (list $http $grpc) -}}{{ println (printf "gatewayApi.grpc.hosts: %s overlaps with %s of gatewayApi.http on one listener, and the Gateway API accepts only one of the two routes there; use another host, or listeners of their own by sectionName" (quote $grpc) (quote $http)) }}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Non-empty if both routes attach to a common listener. Without sectionName a route attaches to
     every listener of its Gateway. */}}
{{- define "thumbwheel.oneListener" -}}
{{- $http := .Values.gatewayApi.http -}}{{- $grpc := .Values.gatewayApi.grpc -}}{{- $here := .Release.Namespace -}}
{{- $same := or (not $http.sectionName) (not $grpc.sectionName) (eq $http.sectionName $grpc.sectionName) -}}
{{- if and $same (eq $http.gateway $grpc.gateway) (eq ($http.namespace | default $here) ($grpc.namespace | default $here)) }}yes{{ end -}}
{{- end -}}

{{/* Non-empty if some host matches both names. Empty matches every host, `*.` any labels. Arguments:
     list of two names. */}}
{{- define "thumbwheel.hostsOverlap" -}}
{{- $one := index . 0 -}}{{- $other := index . 1 -}}
{{- if or (not $one) (not $other) (eq $one $other) -}}yes
{{- else if and (hasPrefix "*." $one) (hasSuffix (trimPrefix "*" $one) $other) -}}yes
{{- else if and (hasPrefix "*." $other) (hasSuffix (trimPrefix "*" $other) $one) -}}yes
{{- end -}}
{{- end -}}
