{{/* Egress to stores and other servers outside the release. */}}

{{/* JSON list of the ports that a service needs. NetworkPolicies know no host names, so the chart
     can derive ports only. Arguments: list of root and facts of the service. */}}
{{- define "thumbwheel.outsidePorts" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}
{{- $ports := list -}}
{{- $given := $root.Values.networkPolicies.ports -}}
{{- if not $root.Values.evaluation.enabled -}}
  {{- $stores := include "thumbwheel.stores" $root | fromYaml -}}
  {{- with $facts.database -}}
    {{- $ports = concat $ports $given.database -}}
    {{- $database := include "thumbwheel.databaseOf" (list $root .) | fromYaml -}}
    {{- if and (include "thumbwheel.databaseHasParts" $database) (not $database.keys.port) -}}{{- $ports = append $ports $database.port -}}{{- end -}}
  {{- end -}}
  {{- if and $facts.valkey $stores.valkey.existingSecret -}}{{- $ports = concat $ports $given.valkey -}}{{- end -}}
  {{- if $facts.kafka -}}
    {{- $ports = concat $ports $given.kafka -}}
    {{- range compact (splitList "," $stores.kafka.bootstrap) -}}{{- $ports = append $ports (splitList ":" . | last | int) -}}{{- end -}}
  {{- end -}}
  {{- if $facts.objects -}}{{- $ports = concat $ports (include "thumbwheel.bucketPorts" $root | fromJsonArray) -}}{{- end -}}
{{- end -}}
{{- if and $facts.http (include "thumbwheel.issuers" $root) -}}{{- $ports = concat $ports $given.issuers -}}{{- end -}}
{{- with $root.Values.monitoring.otlpEndpoint -}}{{- $ports = append $ports (include "thumbwheel.portOfUrl" . | int) -}}{{- end -}}
{{- $whole := list -}}
{{- range $ports -}}{{- $whole = append $whole (int .) -}}{{- end -}}
{{- $whole | uniq | toJson -}}
{{- end -}}

{{/* Port of a URL. */}}
{{- define "thumbwheel.portOfUrl" -}}
{{- $url := urlParse . -}}
{{- if regexMatch ":[0-9]+$" $url.host }}{{ splitList ":" $url.host | last }}{{ else }}{{ eq $url.scheme "https" | ternary 443 80 }}{{ end -}}
{{- end -}}

{{/* Non-empty if a URL begins with https://, or its host is inside the cluster or loopback. The services
     refuse others as well, but only when their pod starts. */}}
{{- define "thumbwheel.isEncrypted" -}}
{{- if regexMatch "^(https://|http://([^./\\[]+|127\\.0\\.0\\.1(:[0-9]+)?|[^/]+\\.(svc|svc\\.cluster\\.local|localhost)(:[0-9]+)?)(/|$))" . }}yes{{ end -}}
{{- end -}}

{{/* Non-empty if the gateway has OIDC issuers, by its settings or by its environment. */}}
{{- define "thumbwheel.issuers" -}}
{{- $gateway := include "thumbwheel.values" (list . "gateway") | fromYaml -}}
{{- if (default dict $gateway.settings).oidc_issuers }}yes{{ end -}}
{{- range $gateway.extraEnv }}{{ if eq .name "TW_GATEWAY_OIDC_ISSUERS" }}yes{{ end }}{{ end -}}
{{- end -}}

{{- define "thumbwheel.bucketPort" -}}
{{- $store := (include "thumbwheel.stores" . | fromYaml).objectStore -}}
{{- if contains ":" $store.endpoint }}{{ splitList ":" $store.endpoint | last }}{{ else }}{{ ternary 443 80 $store.secure }}{{ end -}}
{{- end -}}

{{/* JSON list of the ports of the bucket, those of the values and, for credentials of a role, of the
     service that issues them (STS). */}}
{{- define "thumbwheel.bucketPorts" -}}
{{- $ports := list (include "thumbwheel.bucketPort" . | int) -}}
{{- range .Values.networkPolicies.ports.objectStore -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- if eq (include "thumbwheel.stores" . | fromYaml).objectStore.credentials "chain" -}}{{- $ports = append $ports 443 -}}{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Egress rules for these ports: the rules of the values with no other ports, or every address except
     those of cloud metadata services, which hand out credentials of the node. Arguments: list of root
     and JSON list of ports. */}}
{{- define "thumbwheel.outside" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.networkPolicies.stores -}}
{{- $rules := list -}}
{{- range $root.Values.networkPolicies.stores -}}
  {{- $ports := list -}}
  {{- range include "thumbwheel.portsOfRule" (list . (index $ 1)) | fromJsonArray -}}{{- $ports = append $ports (dict "port" (int .) "protocol" "TCP") -}}{{- end -}}
  {{- if $ports -}}{{- $rules = append $rules (set (deepCopy .) "ports" $ports) -}}{{- end -}}
{{- end -}}
{{- if $rules }}{{ include "thumbwheel.egressRules" $rules }}{{ end -}}
{{- else -}}
{{ include "thumbwheel.everywhere" (index . 1) }}
{{- end -}}
{{- end -}}

{{/* JSON list of those ports that a rule permits. A rule without ports permits all, and one with endPort
     a range. Arguments: list of the rule and JSON list of ports. */}}
{{- define "thumbwheel.portsOfRule" -}}
{{- $rule := index . 0 -}}{{- $permitted := list -}}
{{- range index . 1 | fromJsonArray -}}
  {{- $port := int . -}}{{- $is := empty $rule.ports -}}
  {{- range $rule.ports -}}
    {{- if and (eq (.protocol | default "TCP") "TCP") (or (not .port) (and (ge $port (int .port)) (le $port (int (.endPort | default .port))))) -}}{{- $is = true -}}{{- end -}}
  {{- end -}}
  {{- if $is -}}{{- $permitted = append $permitted $port -}}{{- end -}}
{{- end -}}
{{- $permitted | toJson -}}
{{- end -}}

{{/* Reject a rule for stores with a port that no pod uses: the chart would leave it out, and a service
     with that port in a secret would fail. */}}
{{- define "thumbwheel.validateStorePorts" -}}
{{- $all := include "thumbwheel.bucketPorts" . | fromJsonArray -}}
{{- range include "thumbwheel.known" . | fromYaml -}}{{- $all = concat $all (include "thumbwheel.outsidePorts" (list $ .) | fromJsonArray) -}}{{- end -}}
{{- $all = concat $all (include "thumbwheel.backupPorts" . | fromJsonArray) -}}
{{- range .Values.networkPolicies.stores -}}{{- range .ports -}}
  {{- if kindIs "string" .port -}}{{ println (printf "networkPolicies.stores: the port %s is a name, which the chart cannot compare with the ports of the stores; give its number" .port) }}
  {{- else if and .port (eq (include "thumbwheel.portsOfRule" (list (dict "ports" (list .)) (toJson $all))) "[]") -}}{{ println (printf "networkPolicies.stores: no pod uses port %d; a port of a store that is in a secret belongs to networkPolicies.ports as well" (int .port)) }}{{- end -}}
{{- end -}}{{- end -}}
{{- end -}}

{{/* Egress rule to every address except cloud metadata. Argument: JSON list of ports. */}}
{{- define "thumbwheel.everywhere" -}}
- ports:
    {{- range fromJsonArray . }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  to: {{- include "thumbwheel.everyAddress" . | nindent 4 }}
{{- end -}}

{{/* Egress rules of the values. A rule without `to` would include cloud metadata. */}}
{{- define "thumbwheel.egressRules" -}}
{{- $rules := list -}}
{{- range . -}}
  {{- if .to -}}{{- $rules = append $rules . -}}
  {{- else -}}{{- $rules = append $rules (set (deepCopy .) "to" (include "thumbwheel.everyAddress" "" | fromYamlArray)) -}}{{- end -}}
{{- end -}}
{{ toYaml $rules }}
{{- end -}}

{{/* Peers: every address except link-local ones and those of the metadata services of AWS and Google
     Cloud (IPv6), Alibaba Cloud, Azure and Oracle Cloud. */}}
{{- define "thumbwheel.everyAddress" -}}
# Some network plugins do not count pods as addresses.
- namespaceSelector: {}
- ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16, 100.100.100.200/32, 168.63.129.16/32, 192.0.0.192/32]}
- ipBlock: {cidr: "::/0", except: ["fd00:ec2::254/128", "fd20:ce::254/128", "fe80::/10"]}
{{- end -}}

{{/* Reject policies without a decision on egress, with a way to cloud metadata, or that keep
     Prometheus out. */}}
{{- define "thumbwheel.validateEgress" -}}
{{- $policies := .Values.networkPolicies -}}
{{- if $policies.enabled -}}
{{- if and $policies.stores $policies.storesAnywhere -}}{{ println "networkPolicies.storesAnywhere: true does not use networkPolicies.stores; remove one of the two" }}{{- end -}}
{{- if not (or $policies.stores $policies.storesAnywhere) -}}
  {{- $example := "" -}}
  {{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
    {{- with include "thumbwheel.outsidePorts" (list $ $facts) | fromJsonArray -}}{{- $example = $example | default (printf "%s at %s" $name (join ", " .)) -}}{{- end -}}
  {{- end -}}
  {{- with $example -}}{{ println (printf "networkPolicies.stores: egress rules for the addresses of the stores are required, because policies contain no host names; or set networkPolicies.storesAnywhere: true, with which pods reach every address except cloud metadata at their ports, for example %s" .) }}{{- end -}}
{{- end -}}
{{- /* Ports of stores with an error are not known. */ -}}
{{- if not (include "thumbwheel.validateStores" .) -}}{{ include "thumbwheel.validateStorePorts" . }}{{- end -}}
{{- range $value, $rules := dict "networkPolicies.stores" $policies.stores "networkPolicies.apiServer" $policies.apiServer "models.import.egress" .Values.models.import.egress "externalModels.egress" .Values.externalModels.egress "guardrail.operator.egress" .Values.guardrail.operator.egress -}}
  {{- range $rules -}}{{- range .to -}}{{- with .ipBlock -}}
    {{- $excluded := false -}}
    {{- range .except -}}{{- if include "thumbwheel.hasMetadata" . -}}{{- $excluded = true -}}{{- end -}}{{- end -}}
    {{- if and (include "thumbwheel.hasMetadata" .cidr) (not $excluded) -}}{{ println (printf "%s: %s contains the address of cloud metadata; add 169.254.0.0/16 to except, or fd00:ec2::254/128 for IPv6" $value .cidr) }}{{- end -}}
  {{- end -}}{{- end -}}{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitors.enabled (not $policies.metricsFrom) -}}{{ println "networkPolicies.metricsFrom: peers are required with monitoring.podMonitors.enabled, because the policies keep Prometheus away from the metrics; select its pods" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Non-empty if a CIDR contains 169.254.169.254, or the IPv6 address of AWS by its prefix. */}}
{{- define "thumbwheel.hasMetadata" -}}
{{- $parts := splitList "/" . -}}{{- $bits := last $parts | int -}}
{{- if contains ":" . -}}
  {{- if or (eq $bits 0) (hasPrefix "fd00:ec2:" .) (has . (list "fc00::/7" "fd00::/8")) }}yes{{ end -}}
{{- else -}}
  {{- $size := 1 -}}{{- range until (int (sub 32 $bits)) -}}{{- $size = mul $size 2 -}}{{- end -}}
  {{- $number := 0 -}}{{- range splitList "." (first $parts) -}}{{- $number = add (mul $number 256) (int .) -}}{{- end -}}
  {{- /* 169.254.169.254 as a number */ -}}
  {{- if eq (div $number $size) (div 2852039166 $size) }}yes{{ end -}}
{{- end -}}
{{- end -}}
